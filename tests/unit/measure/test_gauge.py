"""A cost is too high only where that is sure, and not somebody else's doing."""

import json

import pytest

from qap.measure.gauge import Gauge
from qap.measure.verdict import QUIET, CostVerdict, Limit


def gauge(ratios: list[float], limit: Limit | None, others: float = 0.0) -> Gauge:
    return Gauge("a boot", "seconds", limit, ratios, [1.0] * len(ratios), others)


@pytest.mark.parametrize(
    ("limit", "value", "verdict"),
    [
        (Limit(1.1), 1.1, CostVerdict.OK),
        (Limit(1.1), 1.11, CostVerdict.WORSE),
        (Limit(0.9), 0.9, CostVerdict.OK),
        (Limit(0.9), 0.89, CostVerdict.WORSE),
        (None, 9.0, CostVerdict.NOTHING),
    ],
)
def test_limit_is_a_most_or_a_least(
    limit: Limit | None, value: float, verdict: CostVerdict
) -> None:
    assert gauge([value] * 9, limit).verdict == verdict


@pytest.mark.parametrize("ratios", [[1.0, 1.0, 1.2, 1.2, 1.2], [1.0, 1.0, 1.0, 1.2, 1.2]])
def test_interval_on_both_sides_of_the_limit_is_unsure(ratios: list[float]) -> None:
    made = gauge(ratios, Limit(1.1))
    assert made.verdict == CostVerdict.UNSURE
    assert made.reason == "from 1.00 to 1.20"


def test_machine_that_others_kept_busy_says_nothing_against_it() -> None:
    made = gauge([1.2] * 9, Limit(1.1), others=2 * QUIET)
    assert made.verdict == CostVerdict.UNSURE
    assert made.reason == "from 1.20 to 1.20; others kept 20% of the machine busy"


def test_counts_are_decided_by_their_median() -> None:
    limit = Limit(1.1, exact=True)
    assert gauge([1.0, 1.2, 1.2], limit, others=1.0).verdict == CostVerdict.WORSE
    assert gauge([1.0, 1.0, 1.2], limit, others=1.0).verdict == CostVerdict.OK


def test_everything_is_json() -> None:
    made = json.loads(json.dumps(gauge([1.0] * 9, Limit(1.1)).as_dict()))
    assert (made["verdict"], made["limit"], made["ratio"]["value"]) == ("ok", 1.1, 1.0)
