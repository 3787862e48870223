"""Medians, ratios of values measured in turns, and confidence intervals of both."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median and its confidence interval.

    Attributes:
        value: the median of the sample.
        low, high: ends of the interval.
        confidence: how probable it was for the interval to hold the true median, from 0 to 1.
        count: values in the sample.
    """

    value: float
    low: float
    high: float
    confidence: float
    count: int

    def below(self, limit: float) -> bool:
        """Whether all of the interval is below a limit."""
        return self.high < limit

    def meets(self, other: "Estimate") -> bool:
        """Whether the two intervals have a number in common."""
        return self.low <= other.high and other.low <= self.high


def median(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median of independent values, whatever their distribution.

    The interval goes from the k-th least value to the k-th greatest. It misses the true
    median if fewer than k values are on one side of it, each with probability 1/2. k is the
    greatest that gives `confidence`; with fewer than six values nothing gives 95 %, and the
    interval is all of them and says how sure that is.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to take the median of")
    ordered = sorted(values)
    count = len(ordered)
    k = 1
    while 2 * (k + 1) <= count and _coverage(count, k + 1) >= confidence:
        k += 1
    return Estimate(
        statistics.median(ordered), ordered[k - 1], ordered[-k], _coverage(count, k), count
    )


def ratio(of: Sequence[float], to: Sequence[float]) -> Estimate:
    """The median ratio of values that were measured in turns, each to its neighbour in time.

    What slows the machine down for a while slows both down, and cancels out.

    Raises:
        ValueError: `of` and `to` have different lengths, or no values.
        ZeroDivisionError: a value of `to` is 0.
    """
    return median([value / other for value, other in zip(of, to, strict=True)])


def _coverage(count: int, k: int) -> float:
    """How probable it is that k values or more are on either side of the true median."""
    fewer = sum(math.comb(count, below) for below in range(k))
    return 1 - fewer / float(2 ** (count - 1))
