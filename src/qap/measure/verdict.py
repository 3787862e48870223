"""What is asked of a ratio, and whether it was met: one rule for every bench."""

from dataclasses import dataclass
from enum import StrEnum

from qap.measure.estimate import Estimate

# Share of the processors' time that others use: with more than that, a time says little.
QUIET = 0.1


class CostVerdict(StrEnum):
    """The result of a comparison."""

    OK = "ok"
    WORSE = "worse"
    # Undecided: the interval is too wide, or others kept the machine busy.
    UNSURE = "unsure"
    # Worse, but the property costs as much on the base.
    EXPLAINED = "explained"
    # Nothing is asked, or there is nothing to compare.
    NOTHING = "nothing asked"


@dataclass(frozen=True)
class Limit:
    """What is asked of a ratio.

    Attributes:
        value: the ratio is at most this where it is 1 or more, at least this where it is less.
        exact: the values are counts that hardly vary, so that the median alone decides.
    """

    value: float
    exact: bool = False

    def __str__(self) -> str:
        return f"{'at most' if self.value >= 1 else 'at least'} {self.value:g}"

    def judge(self, estimate: Estimate, others: float) -> tuple[CostVerdict, str]:
        """The verdict, and why it is not known where it isn't.

        OK only if the whole interval is within the limit. Worse only if the whole interval misses
        it, and others left the machine idle.

        Args:
            others: share of the processors' time that other processes used, from 0 to 1.
        """
        if self.exact:
            within = self._within(estimate.value)
            return CostVerdict.OK if within else CostVerdict.WORSE, ""
        ends = [self._within(estimate.low), self._within(estimate.high)]
        if all(ends):
            return CostVerdict.OK, ""
        if not any(ends) and others <= QUIET:
            return CostVerdict.WORSE, ""
        interval = f"from {estimate.low:.2f} to {estimate.high:.2f}"
        if others > QUIET:
            return CostVerdict.UNSURE, f"{interval}; others kept {others:.0%} of the machine busy"
        return CostVerdict.UNSURE, interval

    def may_hold(self, estimate: Estimate) -> bool:
        """Whether some of the interval is within the limit."""
        return self._within(estimate.low) or self._within(estimate.high)

    def _within(self, value: float) -> bool:
        return value <= self.value if self.value >= 1 else value >= self.value
