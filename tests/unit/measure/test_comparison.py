"""Instructions decide; a rate is worse only where that is sure, and not the base's doing."""

import json

import pytest

from qap.measure.comparison import VARIANTS, Measure, Variant, WorkloadRow
from qap.measure.estimate import Estimate
from qap.measure.io import shown
from qap.measure.verdict import QUIET, CostVerdict

ROUNDS = 9


def row(measure: Measure, others: float = 0.0, noise: float = 0.0, **typical: float) -> WorkloadRow:
    """A row with values around those given by variant, such as fork_on=1.0."""
    made = WorkloadRow("a disk, reads", measure, others=others)
    steps = [noise * (number - ROUNDS // 2) for number in range(ROUNDS)]
    for variant in VARIANTS:
        value = typical.get(str(variant).replace(" ", "_"))
        # The base stays as it is: what is noise is in the ratio.
        for step in steps if value is not None else ():
            moved = step if variant.build == "fork" and variant.iommu_platform else 0.0
            made.add(variant, (value or 0.0) * (1 + moved))
    return made


def verdict(made: WorkloadRow, of: str, to: str) -> CostVerdict:
    return made.compared(of, to).verdict


ALIKE = {"fork_off": 100.0, "base_off": 100.0, "fork_on": 100.0, "base_on": 100.0}


@pytest.mark.parametrize("state", ["off", "on"])
@pytest.mark.parametrize(("instructions", "ok"), [(90, True), (100.5, True), (100.6, False)])
def test_half_a_per_cent_more_instructions_than_the_base_is_all_that_is_allowed(
    instructions: float, ok: bool, state: str
) -> None:
    # As many with the property as without, so that nothing else is judged.
    both = dict.fromkeys(("fork_off", "fork_on"), instructions)
    kept = "base_on" if state == "off" else "base_off"
    made = row("instructions", **{**ALIKE, **both, kept: instructions})
    result = verdict(made, f"fork {state}", f"base {state}")
    assert result == (CostVerdict.OK if ok else CostVerdict.WORSE)
    assert made.ok == ok


@pytest.mark.parametrize(("instructions", "ok"), [(90, True), (100.3, True), (100.4, False)])
@pytest.mark.parametrize("base", [100.0, 120.0])
def test_instructions_are_as_few_with_the_property_as_without(
    instructions: float, ok: bool, base: float
) -> None:
    """Whatever the property costs on the base."""
    made = row("instructions", fork_off=100, base_off=100, fork_on=instructions, base_on=base)
    assert verdict(made, "fork on", "fork off") == (CostVerdict.OK if ok else CostVerdict.WORSE)
    assert made.ok == ok


@pytest.mark.parametrize(
    ("instructions", "noise", "doubtful"),
    [(100.2, 0.001, False), (100.4, 0.0, False), (100.4, 0.0001, False), (100.4, 0.001, True)],
)
def test_more_rounds_tell_only_where_the_limit_is_within_reach(
    instructions: float, noise: float, doubtful: bool
) -> None:
    made = row("instructions", noise=noise, **{**ALIKE, "fork_on": instructions})
    assert made.is_doubtful == doubtful


@pytest.mark.parametrize(("instructions", "ok"), [(102.0, True), (102.1, False)])
def test_two_per_cent_more_instructions_a_read_of_configuration_is_all_that_is_allowed(
    instructions: float, ok: bool
) -> None:
    made = row("config instructions", others=1.0, **{**ALIKE, "fork_off": instructions})
    assert made.ok == ok


@pytest.mark.parametrize(("rate", "ok"), [(98.0, True), (97.9, False)])
def test_two_per_cent_fewer_reads_of_configuration_is_all_that_is_allowed(
    rate: float, ok: bool
) -> None:
    assert row("config rate", **{**ALIKE, "fork_off": rate}).ok == ok


@pytest.mark.parametrize("measure", ["config instructions", "config rate"])
def test_reads_of_configuration_with_the_property_may_cost_what_they_do(measure: Measure) -> None:
    value = 120 if measure == "config instructions" else 80
    made = row(measure, fork_off=100, base_off=100, fork_on=value, base_on=value)
    assert made.ok
    assert verdict(made, "fork on", "fork off") == CostVerdict.NOTHING


def test_instructions_have_no_ratio_where_only_one_state_ran() -> None:
    made = row("instructions", fork_off=100, base_off=100)
    assert verdict(made, "fork on", "fork off") == CostVerdict.NOTHING


@pytest.mark.parametrize("state", ["off", "on"])
@pytest.mark.parametrize(("rate", "ok"), [(99.0, True), (95.0, True), (94.9, False)])
def test_five_per_cent_fewer_requests_is_all_that_is_allowed(
    rate: float, ok: bool, state: str
) -> None:
    made = row("rate", **{**ALIKE, f"fork_{state}": rate})
    result = verdict(made, f"fork {state}", f"base {state}")
    assert result == (CostVerdict.OK if ok else CostVerdict.WORSE)
    assert made.ok == ok


def test_rate_that_may_be_good_enough_is_not_worse() -> None:
    made = row("rate", noise=0.01, **{**ALIKE, "fork_on": 94.0})
    comparison = made.compared("fork on", "base on")
    assert comparison.verdict == CostVerdict.UNSURE
    assert comparison.reason == "from 0.91 to 0.97"
    assert made.ok


@pytest.mark.parametrize(
    ("noise", "expected"), [(0.001, CostVerdict.OK), (0.02, CostVerdict.UNSURE)]
)
def test_rate_is_good_enough_only_where_that_is_sure(noise: float, expected: CostVerdict) -> None:
    made = row("rate", noise=noise, **{**ALIKE, "fork_on": 96.0})
    assert verdict(made, "fork on", "base on") == expected
    assert made.ok


def test_rate_on_a_machine_that_others_use_is_not_worse() -> None:
    busy = row("rate", others=QUIET + 0.35, **{**ALIKE, "fork_off": 50.0})
    comparison = busy.compared("fork off", "base off")
    assert (comparison.verdict, comparison.reason) == (
        CostVerdict.UNSURE,
        "from 0.50 to 0.50; others kept 45% of the machine busy",
    )
    assert not row("rate", others=QUIET, **{**ALIKE, "fork_off": 50.0}).ok


def test_instructions_count_on_a_busy_machine_too() -> None:
    assert not row("instructions", others=1.0, **{**ALIKE, "fork_off": 150.0}).ok


def test_property_that_costs_as_much_on_the_base_is_explained() -> None:
    made = row("rate", fork_off=100, base_off=100, fork_on=80, base_on=80)
    comparison = made.compared("fork on", "fork off")
    assert comparison.verdict == CostVerdict.EXPLAINED
    assert "0.800" in comparison.reason
    assert made.ok


def test_property_that_costs_more_than_on_the_base_is_worse() -> None:
    made = row("rate", fork_off=100, base_off=100, fork_on=80, base_on=90)
    assert verdict(made, "fork on", "fork off") == CostVerdict.WORSE
    assert not made.ok


def test_property_that_only_the_fork_takes_has_to_cost_nothing() -> None:
    made = row("rate", fork_off=100, base_off=100, fork_on=96)
    made.refused["base on"] = "the base refuses iommu_platform=on"
    assert made.ok
    assert made.compared("fork on", "base on").ratio is None
    assert made.compared("fork on", "base on").reason == "the base refuses iommu_platform=on"
    dear = row("rate", fork_off=100, base_off=100, fork_on=90)
    dear.refused["base on"] = "the base refuses iommu_platform=on"
    assert verdict(dear, "fork on", "fork off") == CostVerdict.WORSE


def test_fork_that_refuses_the_property_is_not_ok() -> None:
    made = row("rate", fork_off=100, base_off=100)
    made.refused["fork on"] = "the fork refuses iommu_platform=on"
    assert not made.ok


def test_json_has_every_value_and_what_it_came_to() -> None:
    made = row("rate", fork_off=100, base_off=80, fork_on=90)
    made.refused["base on"] = "refused"
    document = json.loads(json.dumps(made.as_dict()))
    assert document["samples"]["fork off"] == [100.0] * ROUNDS
    assert document["medians"] == {"fork off": 100.0, "base off": 80.0, "fork on": 90.0}
    first = document["comparisons"][0]
    assert (first["of"], first["to"], first["verdict"]) == ("fork off", "base off", "ok")
    assert first["ratio"]["value"] == 1.25
    assert document["unit"] == "requests a second"
    assert document["ok"] is False


def test_ratio_is_shown_with_the_longer_way_to_an_end() -> None:
    assert shown(Estimate(1.001, 0.997, 1.002, 0.95, 9), 3) == "1.001±0.004"
    assert shown(Estimate(1.001, 0.997, 1.202, 0.95, 9), 2) == "1.00±0.20"


def test_variants_are_two_builds_with_the_property_off_and_on() -> None:
    assert [str(variant) for variant in VARIANTS] == ["base off", "fork off", "base on", "fork on"]
    assert str(Variant("fork", True)) == "fork on"
