"""A cost is too high only where that is sure, and not somebody else's doing."""

import json

import pytest

from qap.measure.comparison import QUIET, CostVerdict
from qap.measure.gauge import Gauge


def gauge(ratios: list[float], limit: float | None, **fields: object) -> Gauge:
    made = Gauge("a boot", "seconds", limit, **fields)  # type: ignore[arg-type]
    made.with_it, made.without = ratios, [1.0] * len(ratios)
    return made


@pytest.mark.parametrize(
    ("limit", "value", "verdict"),
    [
        (1.1, 1.1, CostVerdict.OK),
        (1.1, 1.11, CostVerdict.WORSE),
        (0.9, 0.9, CostVerdict.OK),
        (0.9, 0.89, CostVerdict.WORSE),
        (None, 9.0, CostVerdict.NOTHING),
    ],
)
def test_limit_is_a_most_or_a_least(
    limit: float | None, value: float, verdict: CostVerdict
) -> None:
    assert gauge([value] * 9, limit).verdict == verdict


def test_interval_on_both_sides_of_the_limit_is_unsure() -> None:
    assert gauge([1.0, 1.0, 1.2, 1.2, 1.2], 1.1).verdict == CostVerdict.UNSURE


def test_machine_that_others_kept_busy_says_nothing_against_it() -> None:
    assert gauge([1.2] * 9, 1.1, others=2 * QUIET).verdict == CostVerdict.UNSURE


def test_counts_are_decided_by_their_median() -> None:
    assert gauge([1.0, 1.2, 1.2], 1.1, exact=True, others=1.0).verdict == CostVerdict.WORSE


def test_everything_is_json() -> None:
    made = json.loads(json.dumps(gauge([1.0] * 9, 1.1).as_dict()))
    assert made["verdict"] == "ok"
    assert made["ratio"]["value"] == 1.0
