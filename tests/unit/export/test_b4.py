"""b4/ as b4 prep takes it."""

from pathlib import Path

import pytest

from qap.export.folder import export
from qap.export.sign_off import Person
from qap.fork.git import Git
from qap.verify.kit import packagers

from ..project import Project


@pytest.fixture
def prepared(queue: Project, tmp_path: Path) -> Git:
    """A clone of the base in which the script has made its branches."""
    export(queue, tmp_path / "out", Person("Me", "me@mine.org"))
    Git(tmp_path)("clone", "-q", str(queue.base_tree), "clone")
    git = Git(tmp_path / "clone")
    git("config", "user.name", "Me")
    git("config", "user.email", "me@mine.org")
    packagers.run(tmp_path / "out/b4/prepare", cwd=git.root, env=packagers.with_b4(tmp_path))
    return git


def b4(git: Git, home: Path, *argv: str) -> str:
    offline = ("b4", "-n", "--offline-mode", "prep")
    return packagers.run(*offline, *argv, cwd=git.root, env=packagers.with_b4(home))


@pytest.mark.parametrize("topic", ["fence", "ccw"])
def test_each_topic_is_a_branch_that_b4_knows(prepared: Git, tmp_path: Path, topic: str) -> None:
    prepared("checkout", "-q", f"b4/{topic}")
    said = b4(prepared, tmp_path, "--show-info").splitlines()
    assert len([line for line in said if line.startswith("commit-")]) == 2
    assert "needs-editing: False" in said
    b4(prepared, tmp_path, "--format-patch", str(tmp_path / topic))
    (letter, *patches) = sorted((tmp_path / topic).iterdir())
    text = letter.read_text()
    assert f"Subject: [PATCH 0/2] {topic}: the letter about it\n" in text
    assert f"What users see\n--------------\n\nLines of {topic} are others.\n" in text
    assert len(patches) == 2


def test_base_that_is_not_there_is_one_line(prepared: Git, tmp_path: Path) -> None:
    other = Git(tmp_path / "other")
    other.init()
    home = packagers.with_b4(tmp_path)
    said = packagers.run(tmp_path / "out/b4/prepare", cwd=other.root, env=home, status=1)
    assert said.startswith("prepare: this repository lacks the base's commit ")
    assert said.count("\n") == 1


def test_branches_are_not_made_twice(prepared: Git, tmp_path: Path) -> None:
    home = packagers.with_b4(tmp_path)
    said = packagers.run(tmp_path / "out/b4/prepare", cwd=prepared.root, env=home, status=1)
    assert said == "prepare: the branch b4/fence is there already\n"
