"""`qap matrix`: run cells, and compare what happens with what must happen."""

import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.host.progress import bar
from qap.host.report import Report
from qap.machine.recording import Recording
from qap.matrix import pool
from qap.matrix.cell import Cell, cells, matches_axes
from qap.matrix.gaps import Gap, gaps
from qap.matrix.group import Group
from qap.matrix.journal import Journal
from qap.matrix.lab import cell_lab
from qap.matrix.result import CellResult
from qap.matrix.summary import explain, summary

# For each processor: a hot-unplug waits for QEMU's RCU most of the time.
JOBS_EACH = 3


@dataclass(frozen=True)
class MatrixRun:
    """Cells that were carried out.

    Attributes:
        results: in the order of the cells.
        stale: known gaps of the fork that no cell shows, though all their cells were run.
        missing: cells that no part of it has; see `qap.matrix.merge`.
    """

    results: Sequence[CellResult]
    stale: Sequence[Gap]
    seconds: float
    missing: Sequence[Cell] = ()

    @property
    def ok(self) -> bool:
        """Whether all are there, as expected or known, and every known gap still occurs."""
        wrong = any(result.wrong for result in self.results)
        return not (wrong or self.stale or self.missing)

    @property
    def report(self) -> Report:
        """See docs/json.md."""
        lines = [result.as_dict() for result in self.results]
        return Report("matrix", self.ok, self.seconds, lines)


def matrix(
    chosen: Sequence[Cell],
    build: Build,
    *,
    jobs: int | None,
    resume: bool,
    lab: bool = False,
    folder: Path | None = None,
) -> MatrixRun:
    """Carry out cells and print the summary.

    Args:
        jobs: processes; three for each processor if None.
        resume: go on with a run that was interrupted.
        lab: carry out the cells that need the kernel lab, too.
        folder: of its journal; see Journal.
    """
    start = time.monotonic()
    _check_devices(chosen, build, lab=lab)
    journal = Journal(build, folder)
    results = journal.resume(chosen) if resume else []
    if lab:
        results = [result for result in results if not (result.skip and result.cell.config.in_lab)]
    if not resume:
        journal.begin()
    done = {result.cell for result in results}
    left = [cell for cell in chosen if cell not in done]
    try:
        with bar(f"matrix on the {build.name}") as progress:

            def finished(result: CellResult) -> None:
                results.append(result)
                journal.append(result)
                progress(len(results), len(chosen), result.cell.config.device)

            progress(len(results), len(chosen), "")
            processes = jobs or JOBS_EACH * (os.cpu_count() or 1)
            pool.carry_out(build, left, processes, finished, lab=lab)
    except KeyboardInterrupt:
        Console(stderr=True).print(
            f"{len(results)} of {len(chosen)} cells done: go on with --resume"
        )
        raise
    seconds = time.monotonic() - start
    order = {cell: number for number, cell in enumerate(chosen)}
    results.sort(key=lambda result: order[result.cell])
    gone = [] if build.is_base else stale(chosen, results)
    summary(results, gone, build, seconds)
    return MatrixRun(results, gone, seconds)


def _check_devices(chosen: Sequence[Cell], build: Build, *, lab: bool) -> None:
    """Raises MissingError where the build lacks a device that a cell needs."""
    needed: dict[str, set[str]] = defaultdict(set)
    for cell in chosen:
        if not cell.config.skip or (lab and cell.config.in_lab):
            needed[cell.config.machine_row.qemu].add(cell.config.device_type)
    for system, types in needed.items():
        program = build.path(f"qemu-system-{system}")
        said = subprocess.run(
            [program, "-device", "help"], capture_output=True, text=True, timeout=60, check=True
        )
        missing = types - set(re.findall(r'^name "([^"]+)"', said.stdout, re.MULTILINE))
        if missing:
            raise MissingError(
                f"{program.name} ({build.name}, profile {build.profile}) has no device "
                f"{', '.join(sorted(missing))}: build another profile, or leave it out by --select"
            )


def alone(cell: Cell, build: Build, why: str = "", recording: Recording | None = None) -> Report:
    """Carry out one cell in a QEMU of its own and explain it in one screen.

    Args:
        why: no guest shows it, to be printed.
        recording: gathers what is said.
    """
    start = time.monotonic()
    _check_devices([cell], build, lab=True)
    results: list[CellResult] = []
    with ExitStack() as owned:
        lab = owned.enter_context(cell_lab(build, [cell])) if cell.config.in_lab else None
        Group(build, [cell], results.append, lab=lab, recording=recording).run()
    (result,) = results
    seconds = time.monotonic() - start
    explain(result, build, seconds, why)
    return Report("repro", not result.wrong, seconds, [result.as_dict()])


def stale(chosen: Sequence[Cell], results: Sequence[CellResult]) -> list[Gap]:
    """Known gaps that no result shows, though all of their cells are among the chosen."""
    occurring = {name for result in results for name in result.gaps}
    run = set(chosen)
    return [
        gap for gap in gaps() if gap.reason and gap.name not in occurring and _all_run(gap, run)
    ]


def _all_run(gap: Gap, run: set[Cell]) -> bool:
    concerned = [
        cell for cell in cells() if any(matches_axes(cell.axes, patterns) for patterns in gap.cells)
    ]
    return all(cell in run for cell in concerned)
