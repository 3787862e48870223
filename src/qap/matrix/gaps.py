"""The list of known gaps: mismatches that have a name, and whether the fork still has them."""

from collections.abc import Iterable
from functools import cache

from pydantic import Field

from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.matrix.cell import Cell, matches_axes
from qap.matrix.judge import Problem, ProblemKind

PATH = data() / "gaps.toml"


class Gap(Model):
    """A fault that many cells show.

    Attributes:
        title: the fault in a sentence.
        reason: why the fork has it still; "" if it must not.
        kinds: of problems that it explains.
        cells: patterns by axis; a cell matches if all of one entry do.
    """

    name: str
    title: str
    reason: str = ""
    kinds: tuple[ProblemKind, ...]
    cells: tuple[dict[str, str], ...] = Field(min_length=1)

    def explains(self, cell: Cell, problem: Problem) -> bool:
        """Whether this problem of this cell is this gap."""
        if problem.kind not in self.kinds:
            return False
        return any(matches_axes(cell.axes, patterns) for patterns in self.cells)


@cache
def gaps() -> tuple[Gap, ...]:
    """The gaps of configs/gaps.toml, in its order: the first that explains a problem counts."""
    return tuple(
        checked(Gap, {**row, "name": name}, PATH, name) for name, row in read(PATH).items()
    )


def explained(cell: Cell, problems: Iterable[Problem]) -> list[Gap | None]:
    """For each problem the gap that it is, or None."""
    return [
        next((gap for gap in gaps() if gap.explains(cell, problem)), None) for problem in problems
    ]
