"""Medians and their intervals are those of the sign test; ratios pair what was side by side."""

import random
from fractions import Fraction
from itertools import product

import pytest

from qap.measure.estimate import Estimate, median, ratio


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 0.95, 9)


@pytest.mark.parametrize(
    ("count", "k", "confidence"),
    # Binomial tables, p = 1/2.
    [(5, 1, 0.9375), (6, 1, 0.96875), (8, 1, 0.9921875), (9, 2, 0.9609375), (25, 8, 0.9567147)],
)
def test_interval_goes_from_the_kth_least_to_the_kth_greatest(
    count: int, k: int, confidence: float
) -> None:
    values = [float(number) for number in range(1, count + 1)]
    random.Random(1).shuffle(values)
    result = median(values)
    assert (result.value, result.low, result.high) == ((count + 1) / 2, k, count + 1 - k)
    assert result.confidence == pytest.approx(confidence, abs=1e-6)
    assert result.count == count


@pytest.mark.parametrize("count", [1, 2, 6, 9, 10])
def test_confidence_is_how_often_the_interval_holds_the_true_median(count: int) -> None:
    """By all ways in which values may lie around it, each as probable."""
    held = 0
    for signs in product((-1.0, 1.0), repeat=count):
        # A value's distance from the true median, which is 0, does not matter.
        values = [sign * (number + 1) for number, sign in enumerate(signs)]
        result = median(values)
        held += result.low <= 0 <= result.high
    assert result.confidence == pytest.approx(float(Fraction(held, 2**count)))


def test_one_value_far_out_moves_nothing() -> None:
    quiet = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00, 1.01, 0.99, 1.00]
    disturbed = [*quiet[:-1], 50.0]
    assert median(disturbed).high == pytest.approx(1.02)
    assert median(disturbed).value == median(quiet).value == 1.00


def test_few_values_are_given_with_the_confidence_that_they_have() -> None:
    result = median([2.0, 1.0])
    assert (result.low, result.value, result.high, result.confidence) == (1.0, 1.5, 2.0, 0.5)
    assert median([3.0]).confidence == 0


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_what_slows_both_down_for_a_while_cancels_out() -> None:
    speeds = [1.0, 0.2, 0.9, 0.1, 1.1, 0.5, 1.0, 0.3, 0.7]
    result = ratio([90 * speed for speed in speeds], [100 * speed for speed in speeds])
    assert (result.low, result.value, result.high) == pytest.approx((0.9, 0.9, 0.9))


def test_ratio_needs_as_many_of_both() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratio([1.0], [1.0, 2.0])


def test_interval_is_below_only_with_both_ends() -> None:
    result = estimate(0.94, 0.96)
    assert result.below(0.97) and not result.below(0.95) and not result.below(0.93)
    assert result.meets(estimate(0.96, 1.0)) and not result.meets(estimate(0.97, 1.0))
