"""A patch file: what can be read from it, and the commit that is made from it."""

from pathlib import Path

import pytest

from qap.fork.git import Git, GitError
from qap.fork.patch import Patch

from ..project import Project

MAIL = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A Uthor <author@example.org>
Date: Thu, 2 Jan 2025 03:04:05 +0100
Subject: [PATCH] virtio-bus: a subject that is too long for a line and so
 goes on

Because. Test: is no trailer here.

Forwarded: no
Test: tests/one.py::test_one
Test: tests/two.py
---
 hw/bus.c | 4 ++--
 hw/new.c | 1 +

Test: below the line is not the message

diff --git a/hw/bus.c b/hw/bus.c
--- a/hw/bus.c
+++ b/hw/bus.c
@@ -4,3 +4,3 @@ bus line 3
 bus line 4
-bus line 5
+bus five
 bus line 6
@@ -34,3 +34,3 @@ bus line 33
 bus line 34
-bus line 35
+Test: this is code
 bus line 36
diff --git a/hw/new.c b/hw/new.c
new file mode 100644
--- /dev/null
+++ b/hw/new.c
@@ -0,0 +1 @@
+new
"""


@pytest.fixture
def patch(tmp_path: Path) -> Patch:
    path = tmp_path / "0001-a.patch"
    path.write_text(MAIL)
    return Patch("fence/0001-a.patch", path)


def committed(project: Project, patch: Patch) -> Git:
    """A repository whose branch "patched" is the base and the patch."""
    upstream = project.bring()
    git = Git(project.qemu / "base")
    index = project.root / "index"
    git("read-tree", upstream.commit, env={"GIT_INDEX_FILE": str(index)})
    git("branch", "patched", patch.commit(git, upstream.commit, index))
    return git


def test_topic_is_the_folder(patch: Patch) -> None:
    assert patch.topic == "fence"


def test_subject_is_one_line_without_its_prefix(patch: Patch) -> None:
    assert patch.subject == "virtio-bus: a subject that is too long for a line and so goes on"


def test_trailers_are_the_message_s_own(patch: Patch) -> None:
    assert patch.trailers("Test") == ["tests/one.py::test_one", "tests/two.py"]
    assert patch.trailers("Forwarded") == ["no"]
    assert patch.trailers("Fixes") == []


@pytest.mark.parametrize(
    ("file", "line", "number"), [("hw/bus.c", 4, 1), ("hw/bus.c", 34, 2), ("hw/new.c", 0, 1)]
)
def test_hunks_count_from_one_in_each_file(patch: Patch, file: str, line: int, number: int) -> None:
    assert patch.hunk(file, line) == number


def test_commit_has_the_patch_s_author_date_and_words(project: Project, patch: Patch) -> None:
    git = committed(project, patch)
    shown = git("log", "-1", "--date=iso-strict", "--format=%an|%ae|%ad|%s", "patched").strip()
    assert shown.split("|") == [
        "A Uthor",
        "author@example.org",
        "2025-01-02T03:04:05+01:00",
        patch.subject,
    ]
    assert git("log", "-1", "--format=%(trailers:key=Test,valueonly)", "patched").split() == [
        "tests/one.py::test_one",
        "tests/two.py",
    ]


def test_commit_touches_neither_files_nor_index(project: Project, patch: Patch) -> None:
    git = committed(project, patch)
    assert git("diff", "--name-only", "main", "patched").split() == ["hw/bus.c", "hw/new.c"]
    assert git("status", "--porcelain") == ""
    assert "bus line 5\n" in (git.root / "hw/bus.c").read_text()


def test_commit_does_not_depend_on_the_user_s_git(
    project: Project, patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = committed(project, patch)("rev-parse", "patched")
    config = project.root / ".gitconfig"
    config.write_text("[user]\n\tname = Someone Else\n[i18n]\n\tcommitEncoding = ISO-8859-1\n")
    monkeypatch.setenv("HOME", str(project.root))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert committed(project, patch)("rev-parse", "patched") == plain


def test_git_never_finds_a_repository_further_up(tmp_path: Path) -> None:
    Git(tmp_path).init()
    (tmp_path / "inner").mkdir()
    with pytest.raises(GitError):
        Git(tmp_path / "inner")("rev-parse", "--show-toplevel")
