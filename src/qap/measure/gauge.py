"""What something costs: values with it and without it, taken in turns, and a limit."""

from dataclasses import dataclass, field
from typing import Any

from qap.measure.estimate import Estimate, ratio
from qap.measure.verdict import CostVerdict, Limit


@dataclass
class Gauge:
    """One thing measured on two machines, or two builds.

    Attributes:
        name: what is measured.
        unit: of the values.
        limit: for the ratio of the values with it to those without; None for a ratio that is
            only shown.
        with_it, without: the values, a pair a turn.
        others: share of the processors' time that other processes used, from 0 to 1.
    """

    name: str
    unit: str
    limit: Limit | None
    with_it: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    others: float = 0.0

    @property
    def ratio(self) -> Estimate:
        """Of the values with it to those without."""
        return ratio(self.with_it, self.without)

    @property
    def verdict(self) -> CostVerdict:
        """Whether the ratio is within the limit."""
        return self._judged()[0]

    @property
    def reason(self) -> str:
        """Why the verdict is not known; "" if it is."""
        return self._judged()[1]

    def _judged(self) -> tuple[CostVerdict, str]:
        if self.limit is None:
            return CostVerdict.NOTHING, ""
        return self.limit.judge(self.ratio, self.others)

    def as_dict(self) -> dict[str, Any]:
        """For --json; docs/json.md has what is in it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "with": self.with_it,
            "without": self.without,
            "ratio": vars(self.ratio),
            "limit": self.limit and self.limit.value,
            "others": self.others,
            "verdict": self.verdict,
        }
