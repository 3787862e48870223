"""The journal of a run: what another run may take from it, and what it must not."""

import json
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.matrix import tables
from qap.matrix.journal import Journal
from qap.matrix.observation import CellObservation
from qap.matrix.result import CellResult

from ..project import Project, write
from .matrix_cells import a_cell, use_gaps

CELLS = [a_cell(driver) for driver in ("accepts", "refuses", "insists")]
SEEN = CellObservation("works", features=[32, 33], features_ok=True, status=0xF, served=False)
RESULTS = [
    CellResult(cell, SEEN, ["qemu -device 'x'", '{"driver": "x"}'], "a\nb ✂", 0.25, True)
    for cell in CELLS
]
RECORD = "qemu/tree/build/small/qap-build.json"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, project: Project) -> Journal:
    """The journal of a build, in a project of its own; it has three results."""
    write(project.root / RECORD, '{"build": "fork", "queue": "one"}')
    made = Journal(Build("small"))
    made.begin()
    for result in RESULTS:
        made.append(result)
    return made


def names(kept: Journal) -> list[str]:
    return [result.cell.name for result in kept.resume(CELLS)]


def test_results_come_back_as_they_were(kept: Journal) -> None:
    assert kept.resume(CELLS) == RESULTS
    assert kept.results() == RESULTS


def test_only_the_cells_that_are_wanted_come_back(kept: Journal) -> None:
    assert kept.resume(CELLS[1:2]) == RESULTS[1:2]


def test_new_run_forgets_the_one_before(kept: Journal) -> None:
    kept.begin()
    assert kept.resume(CELLS) == []


def test_result_is_judged_anew(
    kept: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is said about a cell may change; what was seen of it does not."""
    assert kept.results()[0].verdict == "mismatch"
    text = 'title = "x"\nreason = "y"\nkinds = ["unserved"]\ncells = [{ machine = "q35" }]\n'
    use_gaps(monkeypatch, tmp_path / "gaps.toml", f"[slow]\n{text}")
    first = kept.resume(CELLS)[0]
    assert (first.verdict, first.gaps) == ("known", ["slow"])
    assert first.seen == RESULTS[0].seen


def test_line_that_was_cut_off_is_left_out(kept: Journal) -> None:
    whole = kept.path.read_text()
    for cut in (1, 2, len(json.dumps(RESULTS[2].as_dict())) // 2):
        kept.path.write_text(whole[: -1 - cut])
        assert names(kept) == [cell.name for cell in CELLS[:2]]


def test_run_goes_on_behind_a_line_that_was_cut_off(kept: Journal) -> None:
    kept.path.write_text(kept.path.read_text()[:-9])
    kept.resume(CELLS)
    kept.append(RESULTS[2])
    assert names(kept) == [cell.name for cell in CELLS]


def test_line_end_that_was_cut_off_loses_nothing(kept: Journal) -> None:
    kept.path.write_text(kept.path.read_text()[:-1])
    assert names(kept) == [cell.name for cell in CELLS]


def test_nothing_was_begun(kept: Journal) -> None:
    kept.path.unlink()
    with pytest.raises(UsageError, match=r"^--resume: no run of the fork was begun$"):
        kept.resume(CELLS)
    assert kept.results() == []


@pytest.mark.parametrize("size", [0, 1, 20])
def test_run_that_was_interrupted_while_it_began_was_not_begun(kept: Journal, size: int) -> None:
    kept.path.write_text(kept.path.read_text()[:size])
    with pytest.raises(UsageError, match=r"^--resume: "):
        kept.resume(CELLS)
    assert kept.results() == []


def test_results_of_another_build_are_refused(kept: Journal, project: Project) -> None:
    write(project.root / RECORD, '{"build": "fork", "queue": "two"}')
    with pytest.raises(UsageError, match=r"fork\.jsonl is of another build or another matrix"):
        kept.resume(CELLS)


def test_results_of_another_matrix_are_refused(
    kept: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "matrix.toml", f"{tables.PATH.read_text()}# changed\n")
    monkeypatch.setattr(tables, "PATH", tmp_path / "matrix.toml")
    with pytest.raises(UsageError, match=r"fork\.jsonl is of another build or another matrix"):
        kept.resume(CELLS)


def test_builds_have_journals_of_their_own(kept: Journal) -> None:
    stock = Journal(Build("small", is_base=True))
    with pytest.raises(UsageError, match=r"^--resume: no run of the base was begun$"):
        stock.resume(CELLS)
    stock.begin()
    assert names(kept) == [cell.name for cell in CELLS]
