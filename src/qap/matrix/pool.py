"""Groups of cells spread over processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qap.fork.build import Build
from qap.host import workers
from qap.host.errors import QapError
from qap.matrix.cell import Cell
from qap.matrix.group import Group, groups
from qap.matrix.result import CellResult


@dataclass(frozen=True)
class GroupJob:
    """A group of cells that a process carries out."""

    build: Build
    cells: Sequence[Cell]


def carry_out(
    build: Build, cells: Sequence[Cell], jobs: int, finished: Callable[[CellResult], None]
) -> None:
    """Carry out cells in `jobs` processes.

    Args:
        finished: gets each result when it is there.
    Raises:
        QapError: a process ended without having been told to.
    """
    # The longest first, so that all processes end at about the same time.
    work = [GroupJob(build, group) for group in sorted(groups(cells), key=len, reverse=True)]
    done: set[str] = set()

    def heard(number: int, result: CellResult) -> None:
        done.add(result.cell.name)
        finished(result)

    try:
        workers.carry_out(_group, work, jobs, heard)
    except workers.WorkerEnded as ended:
        left = [cell.name for cell in work[ended.number].cells if cell.name not in done]
        where = left[0] if left else "nothing"
        raise QapError(f"a process ended while it carried out {where}: see above") from None


def _group(job: GroupJob, report: Callable[[CellResult], None]) -> None:
    Group(job.build, job.cells, report).run()
