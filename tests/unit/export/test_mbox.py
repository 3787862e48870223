"""mbox/ and the bundle as git takes them."""

import mailbox
from email.header import decode_header, make_header
from pathlib import Path

import pytest

from qap.fork import series
from qap.fork.git import Git, GitError
from qap.verify.kit import packagers

from ..project import Project
from .conftest import LONG

PREREQUISITE = "prerequisite-patch-id: "


@pytest.fixture
def stock(queue: Project, tmp_path: Path) -> Git:
    """A clone of qemu/base that knows nothing of the queue."""
    Git(tmp_path)("clone", "-q", str(queue.base_tree), "stock")
    git = Git(tmp_path / "stock")
    git.init()
    return git


def subjects(path: Path) -> list[str]:
    mails = list(mailbox.mbox(path, create=False))
    return [" ".join(str(make_header(decode_header(mail["Subject"]))).split()) for mail in mails]


def test_git_am_takes_each_mailbox_and_gives_the_queue(
    queue: Project, exported: Path, stock: Git
) -> None:
    packagers.apply_mailboxes(stock, exported / "mbox")
    series.ensure(queue)
    assert packagers.contents(stock) == packagers.contents(queue.git)
    log = stock("log", "--reverse", "-4", "--format=%s")
    assert log.splitlines() == queue.log()


def test_mailbox_of_a_later_topic_needs_the_one_before(exported: Path, stock: Git) -> None:
    with pytest.raises(GitError):
        stock("am", "-q", str(exported / "mbox/02-ccw.mbox"))


def test_cover_letter_has_the_topics_words_and_counts(exported: Path) -> None:
    (subject,) = subjects(exported / "mbox/01-fence.cover")
    assert subject == "[PATCH 0/2] fence: the letter about it"
    text = (exported / "mbox/01-fence.cover").read_text()
    assert "What users see\n--------------\n\nLines of fence are others." in text
    assert "BLURB" not in text
    assert " hw/bus.c | 2 +-\n" in text
    assert subjects(exported / "mbox/01-fence.mbox") == [
        f"[PATCH 1/2] {LONG}",
        "[PATCH 2/2] pci: tell",
    ]


@pytest.mark.parametrize("kind", ["cover", "mbox"])
def test_base_and_patches_before_are_named(queue: Project, exported: Path, kind: str) -> None:
    first = (exported / f"mbox/01-fence.{kind}").read_text().splitlines()
    second = (exported / f"mbox/02-ccw.{kind}").read_text().splitlines()
    base = f"base-commit: {Git(queue.base_tree).head()}"
    assert first.count(base) == second.count(base) == 1
    assert not [line for line in first if line.startswith(PREREQUISITE)]
    series.ensure(queue)
    shown = queue.git("log", "-p", "--reverse", "--format=%H", "qap-base..HEAD~2")
    ids = [line.split()[0] for line in queue.git("patch-id", "--stable", stdin=shown).splitlines()]
    named = [line for line in second if line.startswith(PREREQUISITE)]
    assert len(ids) == 2
    assert named == [f"{PREREQUISITE}{one}" for one in ids]


def test_bundle_has_a_branch_for_each_topic(queue: Project, exported: Path, stock: Git) -> None:
    bundle = str(exported / "queue.bundle")
    stock("bundle", "verify", "-q", bundle)
    stock("fetch", "-q", bundle, "refs/heads/*:refs/heads/*")
    series.ensure(queue)
    assert packagers.contents(stock, "topic/ccw") == packagers.contents(queue.git)
    assert packagers.contents(stock, "topic/fence") == packagers.contents(queue.git, "HEAD~2")
