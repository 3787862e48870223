"""A whole export: the same bytes each time, or nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qap.export.folder import export
from qap.host.errors import QapError, UsageError
from qap.verify.kit.packagers import files, needs, run

from ..project import Project

SCRIPT = """
import sys
from pathlib import Path
from qap.export.folder import export
from qap.host.paths import Project
export(Project(Path(sys.argv[1])), Path(sys.argv[2]), None)
"""


def test_another_day_in_another_folder_gives_the_same_bytes(
    queue: Project, exported: Path, tmp_path: Path
) -> None:
    needs("faketime")
    elsewhere = tmp_path / "a" / "longer path"
    moved = Project(elsewhere / "checkout")
    shutil.copytree(queue.root, moved.root)
    argv = [sys.executable, "-c", SCRIPT, str(moved.root), str(elsewhere / "out")]
    env = {"TZ": "Asia/Tokyo", "HOME": str(elsewhere), "LC_ALL": "C", "COLUMNS": "40"}
    run("faketime", "2031-05-06 07:08:09", *argv, cwd=elsewhere, env=env)
    assert files(elsewhere / "out") == files(exported)


def test_no_path_of_this_machine_is_in_it(queue: Project, exported: Path, tmp_path: Path) -> None:
    for name, content in files(exported).items():
        assert str(tmp_path).encode() not in content, name


def test_date_is_that_of_source_date_epoch(
    queue: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    export(queue, tmp_path / "out", None)
    letter = (tmp_path / "out/mbox/01-fence.cover").read_text()
    assert "\nDate: Sun, 9 Sep 2001 01:46:40 +0000\n" in letter


def test_wrong_source_date_epoch_is_one_line(
    queue: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH='yesterday': not a number"):
        export(queue, tmp_path / "out", None)


def test_checksums_are_those_of_every_file(exported: Path) -> None:
    said = run("sha256sum", "-c", "--strict", "SHA256SUMS", cwd=exported)
    assert len(said.splitlines()) == len(files(exported)) - 1


def test_folder_with_something_in_it_is_refused_and_kept(exported: Path, queue: Project) -> None:
    before = files(exported)
    with pytest.raises(UsageError, match="has something in it"):
        export(queue, exported, None)
    assert files(exported) == before


def test_empty_folder_is_taken(queue: Project, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(queue, tmp_path / "empty", None)
    assert (tmp_path / "empty/quilt/series").exists()


def test_export_that_fails_leaves_nothing(queue: Project, tmp_path: Path) -> None:
    patch = queue.patches / "ccw/0002-bus-more.patch"
    patch.write_text(patch.read_text().replace("bus line 7", "no such line"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(QapError, match=r"ccw/0002-bus-more\.patch does not apply: hw/bus\.c"):
        export(queue, tmp_path / "out", None)
    assert sorted(tmp_path.iterdir()) == before


def test_topic_without_a_cover_letter_is_named(queue: Project, tmp_path: Path) -> None:
    (queue.qemu / "covers/ccw.md").unlink()
    with pytest.raises(UsageError, match=r"qemu/covers/ccw\.md is missing"):
        export(queue, tmp_path / "out", None)


def test_cover_letter_without_a_section_is_named(queue: Project, tmp_path: Path) -> None:
    path = queue.qemu / "covers/ccw.md"
    path.write_text(path.read_text().replace("## What is left out", "## Thanks"))
    with pytest.raises(UsageError, match="it has no “## What is left out”"):
        export(queue, tmp_path / "out", None)


def test_topic_that_is_torn_apart_is_named(queue: Project, tmp_path: Path) -> None:
    names = queue.series.read_text().split()
    queue.series.write_text("\n".join([names[2], names[0], names[1], names[3]]) + "\n")
    with pytest.raises(QapError, match="the patches of ccw do not follow each other"):
        export(queue, tmp_path / "out", None)


def test_empty_queue_is_one_line(project: Project, tmp_path: Path) -> None:
    project.bring()
    with pytest.raises(QapError, match="there is nothing to export"):
        export(project, tmp_path / "out", None)


def test_base_that_is_no_package_of_debian_has_no_debian_folder(exported: Path) -> None:
    assert not (exported / "debian").exists()


def test_wrong_address_is_one_line_of_the_verb() -> None:
    argv = [sys.executable, "-m", "qap", "export", "out", "--signed-off-by", "me"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "qap: --signed-off-by 'me': write it as 'NAME <ADDRESS>'\n"
