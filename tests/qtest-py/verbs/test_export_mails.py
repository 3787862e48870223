"""The whole queue as it is sent to QEMU, signed off, and taken by the programs of its reviewers."""

import mailbox
from pathlib import Path

import pytest

from qap.export.sign_off import Person
from qap.fork import series
from qap.fork.git import Git
from qap.host.paths import Project
from qap.verify.kit import packagers

PROJECT = Project.here()
ME = Person("Me", "me@mine.org")
OURS = ("Forwarded: ", "Test: ")
FOLDERS = ("tests/qtest-py", "tests/avocado", "tests/lab")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packagers.exported(PROJECT, tmp_path_factory, ME)


@pytest.fixture
def review(tmp_path: Path) -> Git:
    """A clone of the base, of somebody who has a name."""
    Git(tmp_path)("clone", "-q", str(PROJECT.base_tree), "review")
    git = Git(tmp_path / "review")
    git.init()
    git("config", "user.name", ME.name)
    git("config", "user.email", ME.address)
    return git


@pytest.fixture
def topics(signed: Path) -> list[str]:
    return [path.stem.partition("-")[2] for path in sorted((signed / "mbox").glob("*.mbox"))]


def test_bundle_is_what_git_am_makes_of_the_mailboxes(
    signed: Path, review: Git, topics: list[str]
) -> None:
    packagers.apply_mailboxes(review, signed / "mbox")
    review("bundle", "verify", "-q", str(signed / "queue.bundle"))
    review("fetch", "-q", str(signed / "queue.bundle"), "refs/heads/*:refs/heads/*")
    last = f"topic/{topics[-1]}"
    assert packagers.contents(review) == packagers.contents(review, last)
    shows = ("log", "--format=%an <%ae>%n%B", f"{base_commit()}..")
    assert review(*shows) == review(*shows[:-1], f"{base_commit()}..{last}")


def base_commit() -> str:
    return Git(PROJECT.base_tree).head()


def test_mails_name_nothing_of_this_repository(signed: Path) -> None:
    boxes = [mailbox.mbox(path, create=False) for path in (signed / "mbox").glob("*.mbox")]
    mails = [str(mail.get_payload()).split("\n---\n")[0] for box in boxes for mail in box]
    assert len(mails) == len(series.patches(PROJECT))
    for text in mails:
        assert not [line for line in text.splitlines() if line.startswith(OURS)], text
        assert f"Signed-off-by: {ME}" in text
    covers = [path.read_text() for path in (signed / "mbox").glob("*.cover")]
    for text in [*mails, *covers]:
        assert not [folder for folder in FOLDERS if folder in text], text


def test_checkpatch_finds_nothing(signed: Path, review: Git, topics: list[str]) -> None:
    review("fetch", "-q", str(signed / "queue.bundle"), "refs/heads/*:refs/heads/*")
    commits = f"{base_commit()}..topic/{topics[-1]}"
    said = packagers.run("scripts/checkpatch.pl", commits, cwd=review.root)
    assert said.count("has no obvious style problems") == len(series.patches(PROJECT))
    assert "WARNING" not in said and "ERROR" not in said


def test_b4_prep_finds_nothing(
    signed: Path, review: Git, topics: list[str], tmp_path: Path
) -> None:
    env = packagers.with_b4(tmp_path)
    packagers.run(signed / "b4/prepare", cwd=review.root, env=env)
    count = 0
    for topic in topics:
        review("checkout", "-q", f"b4/{topic}")
        offline = ("b4", "-n", "--offline-mode", "prep", "--check")
        said = packagers.run(*offline, cwd=review.root, env=env)
        passed = said.rstrip().rpartition("Success: ")[2]
        assert passed.endswith(", Warning: 0, Error: 0"), f"{topic}:\n{said}"
        count += int(passed.partition(",")[0])
    assert count == len(series.patches(PROJECT))
