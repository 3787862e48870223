"""The test programs in QEMU's style that the queue adds, built for a test that runs them."""

import subprocess
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.host.lock import locked
from qap.host.paths import shown
from qap.verify.qtest_programs import UpstreamTest

EMULATOR = "qemu-system-x86_64"
# The first time, libqos is compiled, too.
COMPILE_S = 300
RUN_S = 120
# Of a test: one may wait while another compiles.
TIMEOUT_S = 2 * COMPILE_S + RUN_S


def qtest_program(profile: str, name: str) -> Path:
    """Build a program of tests/qtest, which the fork's tree alone has.

    It drives whichever QEMU it is given. Skips the test if the fork is not built or has not got it,
    and fails it if it does not compile.

    Raises:
        subprocess.TimeoutExpired: it is not compiled within COMPILE_S seconds.
    """
    fork = Build(profile)
    try:
        fork.path(EMULATOR)
    except MissingError as missing:
        pytest.skip(str(missing))
    if not (fork.tree / f"tests/qtest/{name}.c").exists():
        pytest.skip(f"{name} is not in {shown(fork.tree)}: its patch is not ported")
    target = UpstreamTest(name, "x86_64").ninja_target
    with locked(fork.project.qemu):
        ninja = subprocess.run(
            ["ninja", "-C", fork.folder, target],
            env=fork.environment(),
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
            check=False,
        )
    if ninja.returncode:
        pytest.fail(f"{name} was not compiled:\n{ninja.stdout}{ninja.stderr}", pytrace=False)
    return fork.folder / target
