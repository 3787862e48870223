"""Groups of cells spread over processes."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qap.fork.build import Build
from qap.host import workers
from qap.host.errors import QapError
from qap.matrix.cell import Cell
from qap.matrix.group import Group, groups
from qap.matrix.lab import cell_lab
from qap.matrix.result import CellResult

# In the lab, starting a QEMU takes as long as so many cells.
START = 5


@dataclass(frozen=True)
class GroupJob:
    """Groups of cells that a process carries out.

    Attributes:
        cpus: the lab that they need may run on; no lab if None.
    """

    build: Build
    groups: Sequence[Sequence[Cell]]
    cpus: frozenset[int] | None = None

    @property
    def cells(self) -> list[Cell]:
        return [cell for group in self.groups for cell in group]


def carry_out(
    build: Build,
    cells: Sequence[Cell],
    jobs: int,
    finished: Callable[[CellResult], None],
    *,
    lab: bool = False,
) -> None:
    """Carry out cells in `jobs` processes.

    Args:
        finished: gets each result when it is there.
        lab: carry out those that need the kernel lab.
    Raises:
        QapError: a process ended without having been told to.
    """
    # The longest first, so that all processes end at about the same time.
    work = [GroupJob(build, [group]) for group in sorted(groups(cells), key=len, reverse=True)]
    if lab:
        work = [
            *_in_lab(build, work, jobs),
            *(job for job in work if not job.cells[0].config.in_lab),
        ]
    done: set[str] = set()

    def heard(number: int, result: CellResult) -> None:
        done.add(result.cell.name)
        finished(result)

    try:
        workers.carry_out(_work, work, jobs, heard)
    except workers.WorkerEnded as ended:
        left = [cell.name for cell in work[ended.number].cells if cell.name not in done]
        where = left[0] if left else "nothing"
        raise QapError(f"a process ended while it carried out {where}: see above") from None


def _in_lab(build: Build, work: Sequence[GroupJob], most: int) -> list[GroupJob]:
    """Jobs that need the lab, put together for a lab on each processor, but at most so many."""
    mine = [job.cells for job in work if job.cells[0].config.in_lab]
    cpus = frozenset(os.sched_getaffinity(0))
    parts: list[list[Sequence[Cell]]] = [[] for _ in range(min(most, len(cpus)))]
    for group in sorted(mine, key=_cost, reverse=True):
        min(parts, key=lambda part: sum(map(_cost, part))).append(group)
    return [GroupJob(build, part, cpus) for part in parts if part]


def _cost(group: Sequence[Cell]) -> int:
    """What a group takes in the lab, in cells."""
    return START + len(group)


def _work(job: GroupJob, report: Callable[[CellResult], None]) -> None:
    if job.cpus is None:
        for group in job.groups:
            Group(job.build, group, report).run()
        return
    own = os.sched_getaffinity(0)
    # A lab has several processors.
    os.sched_setaffinity(0, job.cpus)
    try:
        with cell_lab(job.build, job.cells) as lab:
            if lab.l1.restarted:
                print(f"L1 had to be started again: {lab.l1.restarted}", file=sys.stderr)
            for group in job.groups:
                Group(job.build, group, report, lab=lab).run()
    finally:
        os.sched_setaffinity(0, own)
