"""Fixtures for all tests here, for the build under test."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.host.paths import Project
from qap.verify.kit.bi_endian import BiEndian
from qap.verify.kit.big_endian import BigEndian
from qap.verify.kit.lab import SECTORS, Lab


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell ignores SIGINT for background processes, and their child processes inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def reported_by_sanitizers() -> None:
    """What a sanitizer reports ends QEMU, and so fails the test. Leaks do not: it is too late."""
    if Build.under_test().is_sanitized:
        os.environ.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab for one test, in a folder with a short path."""
    with ExitStack() as owned:
        folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-"))
        yield Lab(Build.under_test(), Path(folder), owned)


@contextmanager
def built_or_skipped() -> Iterator[None]:
    """Skip the test if a build that it asks for is not there."""
    try:
        yield
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def other(lab: Lab) -> Build:
    """Stock QEMU if the fork is under test, and vice versa."""
    build = Build(lab.build.profile, is_base=not lab.build.is_base)
    with built_or_skipped():
        build.path("qemu-system-x86_64")
    return build


@pytest.fixture
def built(lab: Lab) -> Callable[[str], Build]:
    """Finds a build of any base, such as "stock 10.0" or "fork 10.2".

    Skips the test if it is not there.
    """

    def find(name: str) -> Build:
        kind, series = name.split()
        project = Project.here(series)
        build = Build(lab.build.profile, is_base=kind == "stock", project=project)
        with built_or_skipped():
            build.path("qemu-system-x86_64")
        return build

    return find


@pytest.fixture
def big_endian(lab: Lab) -> BigEndian:
    """Starts machines of the profile big-endian; skips the test if that is not built."""
    machines = BigEndian(lab)
    with built_or_skipped():
        machines.build()
    return machines


@pytest.fixture
def bi_endian(lab: Lab) -> BiEndian:
    """Starts machines of the profile bi-endian; skips the test if that is not built."""
    machines = BiEndian(lab)
    with built_or_skipped():
        machines.build()
    return machines


@pytest.fixture
def both(big_endian: BigEndian) -> BigEndian:
    """The same, with stock QEMU beside the fork; skips the test if one of them is not built."""
    with built_or_skipped():
        big_endian.build(other=True)
    return big_endian


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with different bytes in each sector."""
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(512 * SECTORS))
    return path
