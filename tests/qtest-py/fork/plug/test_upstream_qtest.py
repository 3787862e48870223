"""The series' own test in QEMU's style, a C program, with the QEMU under test."""

import os
import subprocess
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.host.lock import locked
from qap.verify.kit.lab import Lab
from qap.verify.qtest_programs import UpstreamTest

PROGRAM = UpstreamTest("virtio-access-platform-test", "x86_64")
FOLDER = "/x86_64/virtio/access-platform"
EMULATOR = "qemu-system-x86_64"
# The first time, libqos is compiled, too.
COMPILE_S = 300
RUN_S = 60


@pytest.fixture
def program(lab: Lab) -> Path:
    """The test program. The fork's tree alone has it, so it is built there for each QEMU."""
    build = Build(lab.build.profile)
    try:
        build.path(EMULATOR)
    except MissingError as missing:
        pytest.skip(str(missing))
    with locked(build.project.qemu):
        subprocess.run(
            ["ninja", "-C", build.folder, PROGRAM.ninja_target],
            env=build.environment(),
            stdout=subprocess.DEVNULL,
            timeout=COMPILE_S,
            check=True,
        )
    return build.folder / PROGRAM.ninja_target


def fails(lab: Lab, program: Path, test: str) -> str:
    """What a test of the program says if it fails on the QEMU under test."""
    run = subprocess.run(
        [program, "--tap", "-k", "-p", f"{FOLDER}/{test}"],
        env={
            **os.environ,
            "QTEST_QEMU_BINARY": str(lab.build.path(EMULATOR)),
            "TMPDIR": str(lab.folder),
        },
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    passed = run.returncode == 0 and f"ok 1 {FOLDER}/{test}\n" in run.stdout
    return "" if passed else f"status {run.returncode}\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize("test", ["plug/translated", "driver/accepts"])
def test_qtest_of_what_stays_as_it_was(lab: Lab, program: Path, test: str) -> None:
    """A device that can't translate is refused; a driver that accepts the bit is served."""
    assert not fails(lab, program, test)


@pytest.mark.parametrize("test", ["plug/untranslated", "driver/does-not-accept"])
def test_qtest_of_the_fence(lab: Lab, program: Path, test: str) -> None:
    """A device that need not translate plugs; a driver without the bit is not served."""
    assert not fails(lab, program, test)
