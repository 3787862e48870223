"""The result of a cell: expectation and observation side by side, and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from qap.matrix.cell import Cell, named
from qap.matrix.config_reading import ConfigReading
from qap.matrix.gaps import Gap, explained
from qap.matrix.judge import Problem, ProblemKind, judge
from qap.matrix.observation import CellObservation
from qap.oracle.lifecycle import Continuation


class Verdict(StrEnum):
    """The verdict on a cell; an error is a cell that could not be carried out."""

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
        is_base: it was on stock QEMU, where no gap excuses anything.
        in_lab: the kernel lab was there.
    """

    cell: Cell
    seen: CellObservation = field(default_factory=CellObservation)
    qemu: Sequence[str] = ()
    detail: str = ""
    seconds: float = 0.0
    fresh: bool = False
    is_base: bool = False
    in_lab: bool = False

    @property
    def skip(self) -> str:
        """Why it was skipped; "" if it was carried out."""
        config = self.cell.config
        return "" if self.in_lab and config.in_lab else config.skip

    @cached_property
    def problems(self) -> list[Problem]:
        return [] if self.skip else judge(self.cell, self.seen)

    @cached_property
    def _explained(self) -> list[Gap | None]:
        return explained(self.cell, self.problems)

    @property
    def gaps(self) -> list[str]:
        """Names of the gaps that it shows."""
        return sorted({gap.name for gap in self._explained if gap})

    @property
    def verdict(self) -> Verdict:
        """The verdict, from problems and gaps."""
        if self.skip:
            return Verdict.SKIP
        if not self.problems:
            return Verdict.MATCH
        if not self.is_base and all(gap and gap.reason for gap in self._explained):
            return Verdict.KNOWN
        error = any(problem.kind is ProblemKind.ERROR for problem in self.problems)
        return Verdict.ERROR if error else Verdict.MISMATCH

    @property
    def wrong(self) -> bool:
        """Whether it is an error or a mismatch that is not known."""
        return self.verdict in (Verdict.MISMATCH, Verdict.ERROR)

    @property
    def expected(self) -> dict[str, Any]:
        """What had to happen, as the JSON has it."""
        plugged, service = self.cell.expected_with(newer=self.seen.newer)
        expected: dict[str, Any] = {
            "outcome": plugged.outcome,
            "why": plugged.why,
            "clause": plugged.clause,
        }
        if service is not None:
            expected |= {"offered": plugged.offered, **asdict(service)}
        if self.cell.continuation:
            expected |= _shown(self.cell.continuation)
        return expected

    def as_dict(self) -> dict[str, Any]:
        """One line of the JSON, see docs/json.md."""
        return {
            "cell": self.cell.name,
            "axes": self.cell.axes,
            "verdict": self.verdict,
            "skip": self.skip,
            "expected": self.expected,
            "seen": asdict(self.seen),
            "problems": [{"kind": problem.kind, "text": problem.text} for problem in self.problems],
            "gaps": self.gaps,
            "qemu": list(self.qemu),
            "repro": self.cell.repro(is_base=self.is_base),
            "detail": self.detail,
            "seconds": round(self.seconds, 4),
            "fresh": self.fresh,
        }


# The fields of qap.oracle.lifecycle.Continuation, by their names in the JSON.
CONTINUATION_FIELDS = {
    "arrives": "arrived",
    "names": "later_names",
    "started": "later_started",
    "served": "later_served",
    "recovers": "recovered",
    "why": "later_why",
    "clause": "later_clause",
}


def _shown(continuation: Continuation) -> dict[str, Any]:
    said = {shown: getattr(continuation, name) for name, shown in CONTINUATION_FIELDS.items()}
    return {shown: value for shown, value in said.items() if value != ""}


def restored(line: dict[str, Any], *, is_base: bool) -> CellResult:
    """A result from its line of JSON; what it means is judged anew.

    Raises:
        UsageError: there is no such cell any more.
    """
    seen = dict(line["seen"])
    seen["config"] = [ConfigReading(**reading) for reading in seen["config"]]
    cell = named(line["cell"])
    return CellResult(
        cell,
        CellObservation(**seen),
        line["qemu"],
        line["detail"],
        line["seconds"],
        line["fresh"],
        is_base,
        in_lab=cell.config.in_lab and not line["skip"],
    )
