"""`qap test --upstream`: runs QEMU's own qtests on base and fork, and compares.

Those that the queue adds are run on the fork alone: what the base lacks is for `qap prove`.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host.process import stop_all
from qap.host.progress import bar
from qap.host.report import Report, bad, good, table
from qap.verify.qtest_programs import (
    MISSING,
    TESTS,
    Difference,
    QtestRun,
    QtestStuck,
    UpstreamTest,
    compare,
    run_qtest,
)
from qap.verify.runners import FAIL, SKIP, TestResult

# The full device lists: qtests of a device that is not built in are left out.
PROFILE = "debian"


@dataclass(frozen=True)
class Side:
    """The results of a program on a build.

    Attributes:
        run: None if it was stuck and had to be ended; then `stuck` says after which test.
    """

    run: QtestRun | None
    stuck: str = ""

    @property
    def counts(self) -> Counter[str]:
        """The number of tests with each outcome."""
        results = self.run.results.values() if self.run else ()
        return Counter(result.status for result in results)

    @property
    def ran(self) -> int:
        """The number of tests that were run, without skipped ones."""
        return self.counts.total() - self.counts[SKIP]

    @property
    def problems(self) -> list[str]:
        return self.run.problems if self.run else [self.stuck]

    def as_dict(self) -> dict[str, Any]:
        run = self.run
        return {
            "ran": self.ran,
            "counts": dict(self.counts),
            "planned": run.planned if run else None,
            "status": run.status if run else None,
            "seconds": run.wall if run else None,
            "problems": self.problems,
        }


@dataclass(frozen=True)
class ProgramRow:
    """A program on both builds; on the fork alone if the queue adds it."""

    test: UpstreamTest
    fork: Side
    base: Side | None

    @property
    def differences(self) -> list[Difference]:
        if self.fork.run is None or self.base is None or self.base.run is None:
            return []
        return compare(self.fork.run, self.base.run)

    @property
    def problems(self) -> list[str]:
        """Why the fork is not as good as the base, in words; empty if it is.

        A test that fails on both does not count: the cause is this machine or upstream. Each
        that the queue adds does.
        """
        if self.base is None:
            return self.fork.problems
        problems = [
            f"{self.test.name}: {difference.test}: "
            f"{difference.base} on base, {difference.fork} on fork"
            for difference in self.differences
            if difference.worse
        ]
        added = [row.fork for row in self.differences if row.base == MISSING]
        problems += [f"{self.test.name}: a test that the queue adds fails"] * added.count(FAIL)
        ran = self.fork.ran - len(added) + added.count(SKIP)
        if ran != self.base.ran:
            problems.append(f"{self.test.name}: {self.base.ran} tests ran on base, {ran} on fork")
        if self.base.ran == 0:
            problems.append(f"{self.test.name}: no test ran on the base, so nothing is compared")
        if self.fork.run is None:
            problems.append(self.fork.stuck)
        elif self.fork.run.status and not (self.base.run and self.base.run.status):
            problems.append(
                f"{self.test.name} ended with status {self.fork.run.status} on fork only"
            )
        return problems

    def as_dict(self) -> dict[str, Any]:
        return {
            "program": self.test.program,
            "target": self.test.target,
            "fork": self.fork.as_dict(),
            "base": self.base.as_dict() if self.base else None,
            "differences": [
                {**asdict(difference), "worse": difference.worse} for difference in self.differences
            ],
            "problems": self.problems,
        }


def ninja_targets(tests: Sequence[UpstreamTest] = TESTS) -> list[str]:
    """The ninja targets to build in addition to the emulators."""
    return list(dict.fromkeys(test.ninja_target for test in tests))


def upstream(fork: Build, base: Build, tests: Sequence[UpstreamTest] = TESTS) -> Report:
    """Run each program on its builds at the same time, compare, and print the table.

    Raises:
        MissingError: a program or its emulator is not built.
    """
    start = time.monotonic()
    rows = []
    with bar("upstream's tests") as progress, ThreadPoolExecutor(2) as pool:
        for number, test in enumerate(tests):

            def heard(result: TestResult, number: int = number) -> None:
                progress(number, len(tests), result.test)

            progress(number, len(tests), test.name)
            try:
                on_fork = pool.submit(_side, fork, test, heard)
                on_base = None if test.added else pool.submit(_side, base, test, heard)
                row = ProgramRow(test, on_fork.result(), on_base.result() if on_base else None)
                rows.append(row)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_all()
                raise
        progress(len(tests), len(tests), "")
    seconds = time.monotonic() - start
    _print(rows, fork, seconds)
    ok = bool(rows) and not any(row.problems for row in rows)
    return Report("test", ok, seconds, [row.as_dict() for row in rows])


def _side(build: Build, test: UpstreamTest, heard: Callable[[TestResult], None]) -> Side:
    try:
        return Side(run_qtest(build, test, on_result=heard))
    except QtestStuck as stuck:
        return Side(None, str(stuck))


def _print(rows: Sequence[ProgramRow], fork: Build, seconds: float) -> None:
    lines = []
    for row in rows:
        worse = sum(difference.worse for difference in row.differences)
        better = len(row.differences) - worse
        changed = ", ".join(
            text
            for text, count in ((f"{worse} worse", worse), (f"{better} better", better))
            if count
        )
        mark = bad if row.problems else good
        lines.append([row.test.name, _shown(row.base), _shown(row.fork), mark(changed or "none")])
    title = f"upstream's tests, profile {fork.profile} ({seconds:.0f} s)"
    table(title, ["program", "base", "fork", "differences"], lines)
    console = Console()
    for row in rows:
        for problem in row.problems:
            console.print(bad(problem))
        for problem in row.base.problems if row.base else ():
            console.print(f"[dim]{escape(problem)}[/]")


def _shown(side: Side | None) -> str:
    if side is None:
        return ""
    if side.run is None:
        return bad("stuck")
    return ", ".join(f"{count} {status}" for status, count in sorted(side.counts.items()))
