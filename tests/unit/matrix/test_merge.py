"""Parts of the matrix, joined: the same as one run, or it is said what is wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from qap.cli.trials import merge as verb
from qap.fork import series
from qap.fork.build import Build
from qap.fork.provenance import provenance
from qap.host.errors import UsageError
from qap.matrix import run
from qap.matrix.cell import Cell, shard
from qap.matrix.merge import merge
from qap.matrix.observation import CellObservation
from qap.matrix.result import CellResult

from ..project import Project
from .matrix_cells import use_gaps
from .test_run import ALL, SERVED, SLOW, UNSERVED, matching

PARTS = 3
RECORD = {"build": "fork", "profile": "small", "source": "here", "package_version": "1"}


class Parts:
    """Files of a run in parts, without a QEMU.

    Attributes:
        seen: what is seen of a cell; of every other what there must be.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.seen: dict[Cell, CellObservation] = {}

    def results(self, cells: Sequence[Cell]) -> list[CellResult]:
        return [CellResult(cell, self.seen.get(cell, matching(cell)), ["qemu"]) for cell in cells]

    def write(self, *, record: dict[str, str] = RECORD) -> list[Path]:
        """What each part writes."""
        paths = []
        for number in range(1, PARTS + 1):
            cells = shard(ALL, f"{number}/{PARTS}")
            done = run.MatrixRun(self.results(cells), [], 2.0)
            path = self.folder / f"{number}.json"
            done.report.write(path, {**provenance(self.project, []), "builds": [record]})
            paths.append(path)
        return paths


@pytest.fixture
def parts(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parts:
    """Parts of a project where no gap is known."""
    project.add_patch("fence/0001-bus.patch", "bus: ask", ("hw/bus.c", "bus line 5\n", "asks\n"))
    project.bring()
    use_gaps(monkeypatch, tmp_path / "gaps.toml", "")
    return Parts(project, tmp_path)


def test_parts_are_one_run(parts: Parts) -> None:
    done = merge(parts.write()[::-1], ALL, parts.project)
    assert done.run.ok
    assert done.run.report.results == run.MatrixRun(parts.results(ALL), [], 0).report.results
    assert done.run.seconds == 2.0 * PARTS
    assert done.build == Build("small", project=parts.project)


def test_one_wrong_cell_fails_all(parts: Parts) -> None:
    parts.seen[SERVED] = UNSERVED
    done = merge(parts.write(), ALL, parts.project)
    assert not done.run.ok
    assert [result.cell for result in done.run.results if result.wrong] == [SERVED]


def test_part_that_is_missing_fails_all(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    done = merge(parts.write()[:-1], ALL, parts.project)
    assert not done.run.ok
    lacking = shard(ALL, f"{PARTS}/{PARTS}")
    assert done.run.missing == lacking
    said = " ".join(capsys.readouterr().out.split())
    assert f"{len(lacking)} cells are in no file, such as {lacking[0].name}" in said


def test_gap_that_no_part_shows_fails_all(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_gaps(monkeypatch, tmp_path / "gaps.toml", SLOW)
    assert [gap.name for gap in merge(parts.write(), ALL, parts.project).run.stale] == ["slow"]


def test_gap_that_a_part_shows_is_known(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_gaps(monkeypatch, tmp_path / "gaps.toml", SLOW)
    parts.seen[SERVED] = UNSERVED
    assert merge(parts.write(), ALL, parts.project).run.ok


def test_same_part_twice_is_refused(parts: Parts) -> None:
    first, *others = parts.write()
    with pytest.raises(UsageError, match=rf"^{ALL[0].name} is in both .*1.json and .*copy.json$"):
        copy = first.with_name("copy.json")
        copy.write_bytes(first.read_bytes())
        merge([first, *others, copy], ALL, parts.project)


def test_part_of_another_build_is_refused(parts: Parts) -> None:
    first, second, _ = parts.write()
    document = json.loads(second.read_text())
    document["builds"][0]["build"] = "base"
    second.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"2.json is of another build than .*1.json$"):
        merge([first, second], ALL, parts.project)


def test_parts_of_another_queue_are_refused(parts: Parts) -> None:
    paths = parts.write()
    before = series.digest(parts.project)
    parts.project.add_patch("fence/0002-pci.patch", "pci", ("hw/pci.c", "pci line 5\n", "x\n"))
    assert series.digest(parts.project) != before
    with pytest.raises(UsageError, match="is of another queue than qemu/series here"):
        merge(paths, ALL, parts.project)


@pytest.mark.parametrize("text", ["", "{}", '{"verb": "run"}', "[1]"])
def test_file_of_something_else_is_refused(parts: Parts, text: str) -> None:
    path = parts.folder / "other.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"other.json is not what ./qap matrix --json writes$"):
        merge([path], ALL, parts.project)


def test_file_that_is_not_there_is_named(parts: Parts) -> None:
    with pytest.raises(UsageError, match=r"none.json: No such file or directory$"):
        merge([parts.folder / "none.json"], ALL, parts.project)


@pytest.mark.parametrize(("wrong", "code"), [(False, 0), (True, 1)])
def test_verb_writes_a_page_and_a_file_and_ends_with_the_verdict(
    parts: Parts, wrong: bool, code: int
) -> None:
    if wrong:
        parts.seen[SERVED] = UNSERVED
    json_file, page = parts.folder / "all.json", parts.folder / "all.html"
    selector = ["machine=q35,device=virtio-rng,viommu=none,plug=hot"]
    with pytest.raises(typer.Exit) as ended:
        verb(parts.write(), selector, json_file, page)
    assert ended.value.exit_code == code
    document = json.loads(json_file.read_text())
    assert (document["verb"], document["ok"]) == ("matrix", not wrong)
    assert document["builds"] == [RECORD]
    assert document["packages"] == []
    assert [line["cell"] for line in document["results"]] == [cell.name for cell in ALL]
    assert f"fork, {len(ALL)} cells in 6 s" in page.read_text()
    # What is joined can be joined again.
    assert merge([json_file], ALL, parts.project).run.ok is not wrong
