"""Running upstream's own qtests on a build.

They are C programs below tests/qtest/ of the build folder. Each starts the emulator that
QTEST_QEMU_BINARY names and reports in TAP (testanything.org). Tests of devices that are not
built in are left out.
"""

import os
import re
import select
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tap.line import Plan, Result
from tap.parser import Parser

from qap.fork.build import Build
from qap.fork.patch import Patch
from qap.host.cpu_time import cpu_of
from qap.host.errors import MissingError, QapError
from qap.host.process import Process
from qap.verify.runners import FAIL, PASS, SKIP, TestResult

MISSING = "missing"
# From worst to best.
RANK = (MISSING, FAIL, SKIP, PASS)
CHUNK = 1 << 16
# sh(1) redirects only to single-digit descriptors, so it opens the pipe by its name.
SCRIPT = 'cd "$1" && exec >"/proc/self/fd/$2" && shift 2 && exec "$@"'
# As git writes it of a program that a patch adds.
ADDED = re.compile(r"^diff --git a/tests/qtest/(\S+-test)\.c \S+\nnew file ", re.M)
OnResult = Callable[[TestResult], None]


@dataclass(frozen=True)
class UpstreamTest:
    """A test program in QEMU's tree, and the emulator that it drives.

    Args:
        program: its name below tests/qtest/.
        target: the emulator's architecture, as in qemu-system-TARGET.
        timeout: seconds after which it counts as stuck.
        added: by a patch of the queue, so that the base's tree has not got it.
    """

    program: str
    target: str
    timeout: float = 300.0
    added: bool = False

    @property
    def name(self) -> str:
        return f"{self.program} ({self.target})"

    @property
    def ninja_target(self) -> str:
        """The ninja target, which is also the path in the build folder."""
        return f"tests/qtest/{self.program}"


QOS = UpstreamTest("qos-test", "x86_64")
# Those that touch virtio, hot plug, migration or a vIOMMU. qos-test knows no s390x machine.
TESTS = (
    QOS,
    UpstreamTest("intel-iommu-test", "x86_64"),
    UpstreamTest("virtio-ccw-test", "s390x"),
    UpstreamTest("device-plug-test", "x86_64"),
    UpstreamTest("device-plug-test", "s390x"),
    UpstreamTest("drive_del-test", "x86_64"),
    UpstreamTest("drive_del-test", "s390x"),
    UpstreamTest("migration-test", "x86_64", timeout=1800.0),
    UpstreamTest("migration-test", "s390x", timeout=1800.0),
)


def added(patches: Iterable[Patch]) -> list[UpstreamTest]:
    """The programs that patches add. All of them drive x86."""
    names = [name for patch in patches for name in ADDED.findall(patch.diff)]
    return [UpstreamTest(name, "x86_64", added=True) for name in names]


@dataclass(frozen=True)
class QtestRun:
    """The results of a test program on a build.

    Attributes:
        status: its exit status, negative for a signal.
        planned: the number of tests in its TAP plan.
        results: of the tests it ran or skipped, by name and in their order; `seconds` is the
            time since the last result.
        wall: seconds from its start to its end.
        cpu: seconds of CPU time, user and system, of it and of the children that it waited
            for, to 10 ms.
        said: the last lines that it and its emulators printed on stderr.
    """

    test: UpstreamTest
    build: str
    status: int
    planned: int
    results: Mapping[str, TestResult]
    wall: float
    cpu: float
    said: str

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, in words; empty if nothing is."""
        failed = [result for result in self.results.values() if result.status == FAIL]
        lines = [
            ": ".join(filter(None, (f"{result.test} failed", result.message))) for result in failed
        ]
        if self.planned == 0:
            lines.append("there is no test that this build could run")
        if (lost := self.planned - len(self.results)) > 0:
            lines.append(f"{lost} of {self.planned} tests have no result")
        if self.status and not failed:
            lines.append(f"ended with status {self.status}")
        return [f"{self.test.name} on {self.build}: {line}" for line in lines]


class QtestStuck(QapError):
    """A test program did not end in time; the message names the last test with a result."""

    def __init__(self, test: UpstreamTest, build: Build, last: str, said: str) -> None:
        after = f"after {last}" if last else "before its first test was over"
        super().__init__(
            f"{test.name} on {build.name} was stuck {after}: not done in {test.timeout:g} s", said
        )


@dataclass(frozen=True)
class Difference:
    """A test whose outcomes on the two builds differ.

    Attributes:
        fork, base: pass, fail, skip, or missing if it was not run.
    """

    test: str
    fork: str
    base: str

    @property
    def worse(self) -> bool:
        """Whether the fork's outcome is worse than the base's."""
        return RANK.index(self.fork) < RANK.index(self.base)


def compare(fork: QtestRun, base: QtestRun) -> list[Difference]:
    """The tests of a program whose outcomes differ, in the order they ran."""
    names = dict.fromkeys([*base.results, *fork.results])
    pairs = [Difference(name, _outcome(fork, name), _outcome(base, name)) for name in names]
    return [pair for pair in pairs if pair.fork != pair.base]


def _outcome(run: QtestRun, name: str) -> str:
    return run.results[name].status if name in run.results else MISSING


def run_qtest(
    build: Build,
    test: UpstreamTest,
    *,
    args: Sequence[str] = (),
    on_result: OnResult = lambda _: None,
) -> QtestRun:
    """Run a test program that has been built, in a folder of its own.

    Args:
        args: GLib's test options, such as -p TEST to run a single test or -m slow.
        on_result: called with each result as soon as it is there.
    Raises:
        MissingError: the program or its emulator is not built.
        QtestStuck: it did not end in time.
    """
    program = build.folder / test.ninja_target
    if not program.exists():
        raise MissingError(f"{program.name} ({build.name}, profile {build.profile}) is not built")
    with ExitStack() as owned:
        folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-"))
        reader, writer = os.pipe()
        owned.callback(os.close, reader)
        words = [folder, str(writer), str(program), "--tap", "-k", *args]
        try:
            start = time.monotonic()
            started = Process(
                ["sh", "-c", SCRIPT, "sh", *words],
                log=Path(folder) / "stderr",
                fds=[writer],
                env=_environment(build, test, folder),
            )
            process = owned.enter_context(started)
        finally:
            os.close(writer)
        report = _Report(on_result)
        lines = owned.enter_context(closing(_lines(process, reader, start + test.timeout)))
        for line in lines:
            if line is None:
                raise QtestStuck(test, build, report.last, process.tail())
            report.take(line)
        wall = time.monotonic() - start
        return QtestRun(
            test,
            build.name,
            process.wait(0),
            report.planned,
            report.results,
            wall,
            cpu_of(process.pid),
            process.tail(),
        )


def _environment(build: Build, test: UpstreamTest, folder: str) -> dict[str, str]:
    """The environment of a test program; its sockets and files are made in `folder`."""
    programs = {
        "QTEST_QEMU_BINARY": emulator(build, test.target, Path(folder)),
        "QTEST_QEMU_IMG": build.path("qemu-img"),
        "QTEST_QEMU_STORAGE_DAEMON_BINARY": build.path("qemu-storage-daemon"),
    }
    built = {name: str(path) for name, path in programs.items()}
    return {**built, "TMPDIR": folder, "LC_ALL": "C.UTF-8"}


def emulator(build: Build, target: str, folder: Path) -> Path:
    """A build's emulator, with the firmware that was built with it for s390x.

    Args:
        folder: for a program that starts it so; its path must have no quote.
    Raises:
        MissingError: the emulator is not built.
    """
    binary = build.path(f"qemu-system-{target}")
    images = [build.folder / name for name in build.settings.firmware]
    if target != "s390x" or not images:
        return binary
    wrapper = folder / binary.name
    wrapper.write_text(f'#!/bin/sh\nexec "{binary}" -bios "{images[0]}" "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _lines(process: Process, reader: int, deadline: float) -> Generator[str | None, None, None]:
    """What the program prints, line by line, until it has ended; None at the deadline.

    The pipe may stay open longer, as an emulator may outlive the program.
    """
    with ExitStack() as owned:
        pidfd = os.pidfd_open(process.pid)
        owned.callback(os.close, pidfd)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        rest = b""
        while True:
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not ready:
                yield None
                return
            if reader in ready:
                data = os.read(reader, CHUNK)
                if not data:
                    poll.unregister(reader)
                *whole, rest = (rest + data).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
            elif pidfd in ready:
                return


@dataclass
class _Report:
    """The results that a program has reported so far."""

    on_result: OnResult
    planned: int = 0
    results: dict[str, TestResult] = field(default_factory=dict)
    _parser: Parser = field(default_factory=Parser)
    _last: float = field(default_factory=time.monotonic)

    @property
    def last(self) -> str:
        return next(reversed(self.results), "")

    def take(self, line: str) -> None:
        parsed = self._parser.parse_line(line)
        if isinstance(parsed, Plan):
            self.planned = parsed.expected_tests
        elif isinstance(parsed, Result):
            now = time.monotonic()
            status = SKIP if parsed.skip else PASS if parsed.ok else FAIL
            # TAP allows a dash before the name; GLib puts the failure's message after another.
            name, _, why = parsed.description.removeprefix("- ").partition(" - ")
            said = parsed.directive.reason if parsed.skip else why
            result = TestResult(name, status, now - self._last, said)
            self._last = now
            self.results[name] = result
            self.on_result(result)
