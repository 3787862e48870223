"""A run of the matrix: what fails it, what it writes, and how it goes on when interrupted."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError, UsageError
from qap.matrix import pool, run
from qap.matrix.cell import Cell, selected
from qap.matrix.observation import CellObservation
from qap.matrix.result import CellResult, Verdict

from ..programs import Programs
from ..project import Project
from .matrix_cells import use_gaps

SLOW = """
[slow]
title = "it does not serve"
reason = "nobody has looked yet"
kinds = ["unserved"]
cells = [{ machine = "q35", device = "virtio-rng", viommu = "none", plug = "hot" }]
"""
ALL = selected(["machine=q35,device=virtio-rng,viommu=none,plug=hot"])
IN_LAB = selected(["machine=q35,device=vhost-vsock,viommu=none,plug=hot"])
DEVICES = "echo 'name \"virtio-rng-pci\", bus PCI'"


def fork() -> Build:
    return Build("small")


def base() -> Build:
    return Build("small", is_base=True)


def matching(cell: Cell) -> CellObservation:
    """What there is to see of a device in QEMU that does as it must."""
    plugged, service = cell.expected
    seen = CellObservation(plugged.outcome, error="refused for its legacy interface")
    if service is None:
        return seen
    features = [33] if plugged.offered else []
    return replace(seen, features=features, features_ok=service.features_ok, served=service.served)


SERVED = next(cell for cell in ALL if cell.expected[1] and cell.expected[1].served)
UNSERVED = replace(matching(SERVED), served=False)


@dataclass
class Pool:
    """Carries out cells without a QEMU.

    Attributes:
        seen: what is seen of a cell; of every other what there must be.
        done: the cells it was given.
        most: the user interrupts it after so many.
    """

    seen: dict[Cell, CellObservation] = field(default_factory=dict)
    done: list[Cell] = field(default_factory=list)
    most: int | None = None

    def carry_out(
        self,
        build: Build,
        cells: Sequence[Cell],
        jobs: int,
        finished: Callable[[CellResult], None],
        *,
        lab: bool,
    ) -> None:
        for number, cell in enumerate(cells):
            if number == self.most:
                raise KeyboardInterrupt
            self.done.append(cell)
            seen = self.seen.get(cell, matching(cell))
            finished(
                CellResult(cell, seen, ["qemu"], "a\nb", 0.001, is_base=build.is_base, in_lab=lab)
            )


@pytest.fixture
def without_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Project) -> Pool:
    """The pool of a project of its own, where one gap is known and QEMU has one device."""
    project.bring()
    for build in (fork(), base()):
        Programs(build.folder).add("qemu-system-x86_64", DEVICES)
    made = Pool()
    monkeypatch.setattr(pool, "carry_out", made.carry_out)
    use_gaps(monkeypatch, tmp_path / "gaps.toml", SLOW)
    return made


@pytest.fixture
def without_gaps(without_qemu: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pool:
    use_gaps(monkeypatch, tmp_path / "gaps.toml", "")
    return without_qemu


def test_run_in_which_all_is_as_it_must_be_is_ok(without_gaps: Pool) -> None:
    report = run.matrix(ALL, fork(), jobs=1, resume=False)
    assert report.ok
    assert [result.cell.name for result in report.results] == [cell.name for cell in ALL]
    assert {result.verdict for result in report.results} == {Verdict.MATCH}


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (CellObservation("refused", error="no such thing"), Verdict.MISMATCH),
        (UNSERVED, Verdict.MISMATCH),
        (CellObservation(error="QEMU ended with status -6"), Verdict.ERROR),
    ],
)
def test_one_cell_that_is_not_fails_the_run(
    without_gaps: Pool, seen: CellObservation, verdict: Verdict
) -> None:
    without_gaps.seen[SERVED] = seen
    report = run.matrix(ALL, fork(), jobs=1, resume=False)
    assert not report.ok
    wrong = {
        result.cell.name: result.verdict
        for result in report.results
        if result.verdict != Verdict.MATCH
    }
    assert wrong == {SERVED.name: verdict}


def test_known_gap_does_not_fail_the_run(without_qemu: Pool) -> None:
    without_qemu.seen[SERVED] = UNSERVED
    report = run.matrix(ALL, fork(), jobs=1, resume=False)
    assert report.ok
    known = [result.cell.name for result in report.results if result.verdict == Verdict.KNOWN]
    assert known == [SERVED.name]


def test_known_gap_fails_the_run_on_stock(without_qemu: Pool) -> None:
    without_qemu.seen[SERVED] = UNSERVED
    assert not run.matrix(ALL, base(), jobs=1, resume=False).ok


@pytest.mark.usefixtures("without_qemu")
def test_gap_that_no_longer_occurs_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    report = run.matrix(ALL, fork(), jobs=1, resume=False)
    assert not report.ok
    assert {result.verdict for result in report.results} == {Verdict.MATCH}
    said = " ".join(capsys.readouterr().out.split())
    assert "configs/gaps.toml: slow no longer occurs: take its reason out" in said


@pytest.mark.usefixtures("without_qemu")
def test_gap_is_not_missed_where_one_of_its_cells_was_not_run() -> None:
    assert run.matrix(ALL[1:], fork(), jobs=1, resume=False).ok


@pytest.mark.usefixtures("without_qemu")
def test_gap_need_not_occur_on_stock() -> None:
    assert run.matrix(ALL, base(), jobs=1, resume=False).ok


@pytest.mark.usefixtures("without_qemu")
def test_gap_without_a_reason_need_not_occur(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unexcused = SLOW.replace('reason = "nobody has looked yet"\n', "")
    use_gaps(monkeypatch, tmp_path / "gaps.toml", unexcused)
    assert run.matrix(ALL, fork(), jobs=1, resume=False).ok


def interrupt(made: Pool, after: int) -> None:
    made.most = after
    with pytest.raises(KeyboardInterrupt):
        run.matrix(ALL, fork(), jobs=1, resume=False)
    made.most = None


def test_interrupted_run_says_how_to_go_on(
    without_gaps: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(without_gaps, after=3)
    assert f"3 of {len(ALL)} cells done: go on with --resume" in capsys.readouterr().err


def test_resumed_run_carries_out_what_is_left_and_reports_all(without_gaps: Pool) -> None:
    whole = run.matrix(ALL, fork(), jobs=1, resume=False)
    without_gaps.done.clear()
    interrupt(without_gaps, after=3)
    resumed = run.matrix(ALL, fork(), jobs=1, resume=True)
    assert without_gaps.done == ALL
    assert resumed.results == whole.results
    assert resumed.ok


def test_resumed_run_fails_for_what_was_wrong_before(without_gaps: Pool) -> None:
    without_gaps.seen[ALL[0]] = CellObservation(error="QEMU ended with status -6")
    interrupt(without_gaps, after=3)
    without_gaps.seen.clear()
    assert not run.matrix(ALL, fork(), jobs=1, resume=True).ok


@pytest.fixture
def in_lab(without_gaps: Pool) -> Pool:
    """A QEMU that has the device of IN_LAB."""
    Programs(fork().folder).add("qemu-system-x86_64", "echo 'name \"vhost-vsock-pci\", bus PCI'")
    return without_gaps


def test_summary_says_what_runs_the_cells_that_need_the_lab(
    in_lab: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run.matrix(IN_LAB, fork(), jobs=1, resume=False)
    assert report.ok
    assert {result.verdict for result in report.results} == {Verdict.SKIP}
    said = " ".join(capsys.readouterr().out.split())
    assert f"{len(IN_LAB)} skipped: they need the kernel lab: ./qap matrix --lab" in said


@pytest.mark.usefixtures("in_lab")
def test_cells_that_were_skipped_are_run_when_a_run_goes_on_in_the_lab() -> None:
    run.matrix(IN_LAB, fork(), jobs=1, resume=False)
    report = run.matrix(IN_LAB, fork(), jobs=1, resume=True, lab=True)
    assert {result.verdict for result in report.results} == {Verdict.MATCH}
    assert len(report.results) == len(IN_LAB)


@pytest.mark.usefixtures("without_gaps")
def test_nothing_to_resume_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^--resume: no run of the fork was begun$"):
        run.matrix(ALL, fork(), jobs=1, resume=True)


def test_qemu_that_lacks_devices_is_one_line_before_anything_is_run(without_qemu: Pool) -> None:
    Programs(fork().folder).add("qemu-system-x86_64", "echo 'name \"virtio-rng-ccw\", bus PCI'")
    with pytest.raises(
        MissingError, match=r"^qemu-system-x86_64 .* has no device virtio-rng-pci: "
    ):
        run.matrix(ALL, fork(), jobs=1, resume=False)
    assert without_qemu.done == []


@pytest.mark.usefixtures("without_gaps")
def test_report_has_a_line_for_each_cell(tmp_path: Path) -> None:
    report = run.matrix(ALL, fork(), jobs=1, resume=False).report
    path = tmp_path / "matrix.json"
    report.write(path, {})
    document = json.loads(path.read_text())
    assert (document["verb"], document["ok"]) == ("matrix", True)
    assert document["results"] == report.results
    lines = [line.rstrip(",") for line in path.read_text().splitlines() if '"cell"' in line]
    assert [json.loads(line)["cell"] for line in lines] == [cell.name for cell in ALL]


@pytest.mark.usefixtures("without_gaps")
def test_report_of_no_cells_is_json(tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    run.matrix([], fork(), jobs=1, resume=False).report.write(path, {})
    assert json.loads(path.read_text())["results"] == []
