"""What something costs: values with it and without it, taken in turns, and a limit."""

from dataclasses import dataclass, field
from typing import Any

from qap.measure.comparison import QUIET, CostVerdict
from qap.measure.estimate import Estimate, ratio


@dataclass
class Gauge:
    """One thing measured on two machines, or two builds.

    Attributes:
        name: what is measured.
        unit: of the values.
        limit: for the ratio of the values with it to those without: at most this where it is
            1 or more, at least this where it is less; None for a ratio that is only shown.
        exact: the values are counts that hardly vary, so that the median alone decides.
        with_it, without: the values, a pair a turn.
        others: share of the processors' time that other processes used, from 0 to 1.
    """

    name: str
    unit: str
    limit: float | None
    exact: bool = False
    with_it: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    others: float = 0.0

    @property
    def ratio(self) -> Estimate:
        """Of the values with it to those without."""
        return ratio(self.with_it, self.without)

    @property
    def verdict(self) -> CostVerdict:
        """Worse only if the whole interval misses the limit, and others left the machine idle."""
        estimate = self.ratio
        if self.limit is None:
            return CostVerdict.NOTHING
        if self._within(estimate.value):
            return CostVerdict.OK
        if self.exact:
            return CostVerdict.WORSE
        sure = not self._within(estimate.low) and not self._within(estimate.high)
        return CostVerdict.WORSE if sure and self.others <= QUIET else CostVerdict.UNSURE

    def _within(self, value: float) -> bool:
        assert self.limit is not None
        return value <= self.limit if self.limit >= 1 else value >= self.limit

    @property
    def asked(self) -> str:
        """The limit in words."""
        if self.limit is None:
            return ""
        return f"{'at most' if self.limit >= 1 else 'at least'} {self.limit:g}"

    def as_dict(self) -> dict[str, Any]:
        """For --json; docs/json.md has what is in it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "with": self.with_it,
            "without": self.without,
            "ratio": vars(self.ratio),
            "limit": self.limit,
            "others": self.others,
            "verdict": self.verdict,
        }
