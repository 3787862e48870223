"""The result of a cell: expectation and observation side by side, and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from qap.matrix.cell import Cell, named
from qap.matrix.gaps import explained
from qap.matrix.judge import Problem, ProblemKind, judge
from qap.matrix.observation import CellObservation
from qap.oracle.lifecycle import Continuation


class Verdict(StrEnum):
    """What became of a cell; an error is one that could not be carried out."""

    MATCH = "match"
    MISMATCH = "mismatch"
    KNOWN = "known"
    SKIP = "skip"
    ERROR = "error"


@dataclass
class CellResult:
    """A cell that was carried out, or skipped.

    Attributes:
        qemu: the command line, and what was said on the monitor.
        detail: QEMU's last lines or a backtrace, where something went wrong.
        seconds: how long it took, its part of starting QEMU included.
        fresh: a QEMU was started for it.
    """

    cell: Cell
    seen: CellObservation = field(default_factory=CellObservation)
    qemu: Sequence[str] = ()
    detail: str = ""
    seconds: float = 0.0
    fresh: bool = False

    @property
    def problems(self) -> list[Problem]:
        return [] if self.cell.config.skip else judge(self.cell, self.seen)

    def as_dict(self, *, is_base: bool) -> dict[str, Any]:
        """One line of the JSON, see docs/json.md."""
        problems = self.problems
        found = explained(self.cell, problems)
        plugged, service = self.cell.expected
        skip = self.cell.config.skip
        expected: dict[str, Any] = {
            "outcome": plugged.outcome,
            "why": plugged.why,
            "clause": plugged.clause,
        }
        if service is not None:
            expected |= {"offered": plugged.offered, **asdict(service)}
        if self.cell.continuation:
            expected |= _shown(self.cell.continuation)
        return {
            "cell": self.cell.name,
            "axes": self.cell.axes,
            "verdict": _verdict(
                skip, problems, [gap and not is_base and gap.reason for gap in found]
            ),
            "skip": skip,
            "expected": expected,
            "seen": asdict(self.seen),
            "problems": [{"kind": one.kind, "text": one.text} for one in problems],
            "gaps": sorted({gap.name for gap in found if gap}),
            "qemu": list(self.qemu),
            "repro": self.cell.repro(is_base=is_base),
            "detail": self.detail,
            "seconds": round(self.seconds, 4),
            "fresh": self.fresh,
        }


# The fields of qap.oracle.lifecycle.Continuation, called as they are among what was seen.
SEQUEL = {
    "arrives": "arrived",
    "names": "later_names",
    "started": "later_started",
    "served": "later_served",
    "recovers": "recovered",
    "why": "later_why",
    "clause": "later_clause",
}


def _shown(continuation: Continuation) -> dict[str, Any]:
    said = {shown: getattr(continuation, name) for name, shown in SEQUEL.items()}
    return {shown: value for shown, value in said.items() if value != ""}


def _verdict(skip: str, problems: Sequence[Problem], excused: Sequence[object]) -> Verdict:
    if skip:
        return Verdict.SKIP
    if not problems:
        return Verdict.MATCH
    if all(excused):
        return Verdict.KNOWN
    return (
        Verdict.ERROR
        if any(one.kind is ProblemKind.ERROR for one in problems)
        else Verdict.MISMATCH
    )


def restored(line: dict[str, Any]) -> CellResult:
    """A result from its line of JSON; what it means is judged anew.

    Raises:
        UsageError: there is no such cell any more.
    """
    return CellResult(
        named(line["cell"]),
        CellObservation(**line["seen"]),
        line["qemu"],
        line["detail"],
        line["seconds"],
        line["fresh"],
    )
