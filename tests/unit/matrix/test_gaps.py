"""The list of known gaps: what excuses a mismatch, and what is wrong with the list."""

from pathlib import Path

import pytest

from qap.host.errors import UsageError
from qap.machine.catalog import device_types
from qap.matrix import gaps
from qap.matrix.cell import Cell, cells, matches_axes
from qap.matrix.gaps import explained
from qap.matrix.judge import judge
from qap.matrix.observation import CellObservation
from qap.matrix.result import CellResult

from .matrix_cells import a_cell, use_gaps

SERVED = CellObservation("works", features=[32, 33], features_ok=True, status=0xF, served=True)
UNSERVED = CellObservation("works", features=[32, 33], features_ok=True, status=0xF, served=False)
WRONG_TWICE = CellObservation("works", features=[32], features_ok=True, status=0xF, served=False)
BROKEN = CellObservation(error="QEMU ended with status -6")
SLOW = """
[slow]
title = "it does not serve"
reason = "nobody has looked yet"
kinds = ["unserved", "error"]
cells = [{ device = "virtio-rng|virtio-blk", plug = "hot" }, { machine = "pc" }]
"""
UNEXCUSED = SLOW.replace('reason = "nobody has looked yet"\n', "")
FIRST = SLOW.replace("[slow]", "[first]")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_gaps(monkeypatch, tmp_path / "gaps.toml", SLOW)


def verdict(
    subject: Cell, seen: CellObservation, *, is_base: bool = False
) -> tuple[str, list[str]]:
    result = CellResult(subject, seen, is_base=is_base)
    return result.verdict, result.gaps


def names(subject: Cell, seen: CellObservation) -> list[str | None]:
    return [gap.name if gap else None for gap in explained(subject, judge(subject, seen))]


@pytest.mark.usefixtures("known")
def test_gap_explains_its_kinds_of_problem_in_its_cells() -> None:
    assert names(a_cell(), UNSERVED) == ["slow"]
    assert names(a_cell(device="virtio-blk"), UNSERVED) == ["slow"]
    assert names(a_cell(device="virtio-net", machine="pc"), UNSERVED) == ["slow"]
    assert names(a_cell(device="virtio-net"), UNSERVED) == [None]
    assert names(a_cell(plug="cold"), UNSERVED) == [None]
    assert names(a_cell(), WRONG_TWICE) == [None, "slow"]


def test_first_gap_that_fits_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    narrow = FIRST.replace("virtio-rng|virtio-blk", "virtio-rng").replace("pc", "microvm")
    use_gaps(monkeypatch, tmp_path / "gaps.toml", narrow + SLOW)
    assert names(a_cell(), UNSERVED) == ["first"]
    assert names(a_cell(device="virtio-blk"), UNSERVED) == ["slow"]


@pytest.mark.usefixtures("known")
def test_gap_with_a_reason_is_known_on_the_fork_and_a_mismatch_on_stock() -> None:
    assert verdict(a_cell(), UNSERVED) == ("known", ["slow"])
    assert verdict(a_cell(), UNSERVED, is_base=True) == ("mismatch", ["slow"])


def test_gap_without_a_reason_excuses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_gaps(monkeypatch, tmp_path / "gaps.toml", UNEXCUSED)
    for is_base in (False, True):
        assert verdict(a_cell(), UNSERVED, is_base=is_base) == ("mismatch", ["slow"])


@pytest.mark.usefixtures("known")
def test_every_problem_of_a_cell_needs_its_excuse() -> None:
    assert verdict(a_cell(), WRONG_TWICE) == ("mismatch", ["slow"])


@pytest.mark.usefixtures("known")
def test_cell_without_a_problem_matches_whatever_is_known() -> None:
    assert verdict(a_cell(), SERVED) == ("match", [])


@pytest.mark.usefixtures("known")
def test_cell_that_could_not_be_carried_out_is_an_error() -> None:
    assert verdict(a_cell(device="virtio-net"), BROKEN) == ("error", [])
    assert verdict(a_cell(), BROKEN) == ("known", ["slow"])


@pytest.mark.usefixtures("known")
def test_skipped_cell_is_skipped_whatever_is_seen() -> None:
    name = next(name for name, row in device_types().items() if row.needs)
    assert verdict(a_cell(device=name), UNSERVED) == ("skip", [])


def test_result_has_what_was_expected_beside_what_was_seen() -> None:
    result = CellResult(a_cell(), SERVED).as_dict()
    expected, seen = result["expected"], result["seen"]
    assert (expected["outcome"], expected["offered"], expected["served"]) == ("works", True, True)
    assert (seen["outcome"], seen["features"], seen["served"]) == ("works", [32, 33], True)
    refused = CellResult(
        a_cell(interface="legacy"), CellObservation("refused"), is_base=True
    ).as_dict()
    assert set(refused["expected"]) == {"outcome", "why", "clause"}
    assert refused["repro"].endswith(f" --cell {refused['cell']} --base")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (SLOW.replace("unserved", "slow"), r"kinds\.0: "),
        (SLOW.replace("title", "name"), r"gaps\.toml: "),
        (SLOW[: SLOW.index("cells")] + "cells = []", "cells: "),
    ],
)
def test_wrong_gap_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str, said: str
) -> None:
    use_gaps(monkeypatch, tmp_path / "gaps.toml", wrong)
    with pytest.raises(UsageError, match=said):
        gaps.gaps()


def test_each_known_gap_is_of_cells_that_are_there() -> None:
    for gap in gaps.gaps():
        for patterns in gap.cells:
            assert any(matches_axes(cell.axes, patterns) for cell in cells()), gap.name
