"""The patch queue: from patches to commits, and from commits to patches."""

from pathlib import Path

import pytest

from qap.fork import base, series
from qap.fork.patch import Patch
from qap.host import paths
from qap.host.errors import QapError, UsageError

from ..project import Project, commit, edit

# The repository's own queue; the fixtures make qap work on another one.
REAL = paths.Project.here()
NAMES = [line for line in REAL.series.read_text().splitlines() if line.endswith(".patch")]

COMMENTED = """\
# The queue, in order.

# fence: who may translate
{0}
{1}

# ccw: the other bus
{2}
# the end
"""


@pytest.fixture
def queue(project: Project) -> Project:
    """Three patches in two topics, a commented series, and qemu/tree made from them."""
    for name, subject, change in (
        ("fence/0001-bus-ask.patch", "bus: ask", ("hw/bus.c", "bus line 5\n", "bus asks\n")),
        ("fence/0002-pci-tell.patch", "pci: tell", ("hw/pci.c", "pci line 9\n", "pci tells\n")),
        ("ccw/0001-ccw-add-a-file.patch", "ccw: add a file", ("hw/new.c", "", "new\n")),
    ):
        project.add_patch(name, subject, change)
    names = project.series.read_text().split()
    project.series.write_text(COMMENTED.format(*names))
    project.bring()
    series.ensure(project)
    return project


def stats(folder: Path) -> dict[str, tuple[int, int]]:
    """The mtime and inode of each source file."""
    files = [path for path in folder.glob("**/*.c") if ".git" not in path.parts]
    by_name = {str(path.relative_to(folder)): path.stat() for path in files}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in by_name.items()}


# from patches to commits


def test_tree_has_one_commit_for_each_patch(queue: Project) -> None:
    assert queue.log() == ["bus: ask", "pci: tell", "ccw: add a file"]
    assert "bus asks\n" in (queue.tree / "hw/bus.c").read_text()
    assert (queue.tree / "hw/new.c").read_text() == "new\n"
    assert series.state(queue) == series.TreeState(
        queue.git("rev-list", "--reverse", "HEAD").split()[1:], local=False, dirty=False
    )


def test_the_same_queue_gives_the_same_commits(queue: Project, tmp_path: Path) -> None:
    first = queue.git.head()
    series.ensure(queue, discard=True)
    assert queue.git.head() == first
    other = Project.make(tmp_path / "elsewhere")
    for name, data in queue.queue().items():
        (other.qemu / name).parent.mkdir(exist_ok=True)
        (other.qemu / name).write_bytes(data)
    other.bring()
    series.ensure(other)
    assert other.tree != queue.tree
    assert other.git.head() == first


def test_files_that_no_change_touches_keep_their_times(queue: Project) -> None:
    before = stats(queue.tree)
    queue.add_patch("fence/0003-pci.patch", "pci: more", ("hw/pci.c", "pci line 30\n", "more\n"))
    series.ensure(queue)
    after = stats(queue.tree)
    assert {name for name in after if after[name] != before[name]} == {"hw/pci.c"}


def test_a_patch_taken_from_the_series_leaves_the_tree(queue: Project) -> None:
    lines = queue.series.read_text().splitlines(keepends=True)
    queue.series.write_text("".join(line for line in lines if "ccw/" not in line))
    series.ensure(queue)
    assert queue.log() == ["bus: ask", "pci: tell"]
    assert not (queue.tree / "hw/new.c").exists()


def test_tree_follows_another_base(queue: Project) -> None:
    edit(queue.source, "hw/ccw.c", "ccw line 20\n", "another release\n")
    queue.bring()
    series.ensure(queue)
    assert "another release\n" in (queue.tree / "hw/ccw.c").read_text()
    assert queue.log() == ["bus: ask", "pci: tell", "ccw: add a file"]


def test_digest_sees_content_and_order(queue: Project) -> None:
    before = series.digest(queue)
    assert series.digest(queue) == before
    names = [line for line in queue.series.read_text().splitlines() if line.endswith(".patch")]
    queue.series.write_text("\n".join([names[1], names[0], names[2]]))
    swapped = series.digest(queue)
    assert swapped != before
    edit(queue.qemu / "patches", names[0], "+bus asks", "+bus begs")
    assert series.digest(queue) not in (before, swapped)


# work in qemu/tree


def test_update_refuses_to_lose_commits(queue: Project) -> None:
    mine = commit(queue.git, "mine", ("hw/bus.c", "bus line 30\n", "mine\n"))
    with pytest.raises(QapError, match=r"commits of its own.*qap refresh.*--discard"):
        series.ensure(queue, update=True)
    assert queue.git.head() == mine


def test_update_refuses_to_lose_changes(queue: Project) -> None:
    edit(queue.tree, "hw/bus.c", "bus line 30\n", "mine\n")
    with pytest.raises(QapError, match="changes that are not committed"):
        series.ensure(queue, update=True)
    assert "mine\n" in (queue.tree / "hw/bus.c").read_text()


def test_discard_throws_commits_and_changes_away(queue: Project) -> None:
    head = queue.git.head()
    commit(queue.git, "mine", ("hw/bus.c", "bus line 30\n", "mine\n"))
    edit(queue.tree, "hw/pci.c", "pci line 30\n", "mine too\n")
    series.ensure(queue, update=True, discard=True)
    assert queue.git.head() == head
    assert "mine" not in (queue.tree / "hw/bus.c").read_text()
    assert "mine" not in (queue.tree / "hw/pci.c").read_text()


@pytest.mark.parametrize("committed", [True, False])
def test_build_leaves_a_tree_that_someone_works_in(queue: Project, committed: bool) -> None:
    change = ("hw/bus.c", "bus line 30\n", "mine\n")
    if committed:
        commit(queue.git, "mine", change)
    else:
        edit(queue.tree, *change)
    head = queue.git.head()
    queue.add_patch("fence/0003-pci.patch", "pci: more", ("hw/pci.c", "pci line 30\n", "more\n"))
    series.ensure(queue, update=False)
    assert queue.git.head() == head
    assert "mine\n" in (queue.tree / "hw/bus.c").read_text()


# from commits to patches


def test_refresh_without_a_change_writes_nothing(queue: Project) -> None:
    before = queue.queue()
    times = {path: path.stat().st_mtime_ns for path in queue.qemu.glob("patches/*/*")}
    assert series.refresh(queue) == []
    assert queue.queue() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_new_commit_follows_the_topic_before_it(queue: Project) -> None:
    commit(queue.git, "ccw: go on", ("hw/ccw.c", "ccw line 1\n", "on\n"))
    assert series.refresh(queue) == ["ccw/0002-ccw-go-on.patch", "series"]
    assert Patch("", queue.patches / "ccw/0002-ccw-go-on.patch").subject == "ccw: go on"


def test_new_commit_takes_the_topic_that_is_named(queue: Project) -> None:
    before = queue.queue()
    commit(queue.git, "s390x: begin", ("hw/ccw.c", "ccw line 1\n", "on\n"))
    assert series.refresh(queue, "sim") == ["sim/0001-s390x-begin.patch", "series"]
    after = queue.queue()
    assert {name for name in before if before[name] != after[name]} == {"series"}
    assert [patch.topic for patch in series.patches(queue)] == ["fence", "fence", "ccw", "sim"]


def test_first_commit_of_all_needs_a_topic(project: Project) -> None:
    project.bring()
    series.ensure(project)
    commit(project.git, "bus: begin", ("hw/bus.c", "bus line 1\n", "on\n"))
    with pytest.raises(UsageError, match=r"bus: begin.*--topic"):
        series.refresh(project)
    assert series.refresh(project, "fence") == ["fence/0001-bus-begin.patch", "series"]


def test_removed_commit_takes_its_file_with_it(queue: Project) -> None:
    queue.git("reset", "-q", "--hard", "HEAD~1")
    assert series.refresh(queue) == ["ccw/0001-ccw-add-a-file.patch", "series"]
    assert [patch.name for patch in series.patches(queue)] == [
        "fence/0001-bus-ask.patch",
        "fence/0002-pci-tell.patch",
    ]
    assert not (queue.patches / "ccw/0001-ccw-add-a-file.patch").exists()


def test_reworded_commit_renames_its_file(queue: Project) -> None:
    commit(queue.git, "ccw: go on", ("hw/ccw.c", "ccw line 1\n", "on\n"))
    series.refresh(queue)
    queue.git("commit", "-q", "--amend", "-m", "ccw: carry on\n\nBecause.")
    new, old = "ccw/0002-ccw-carry-on.patch", "ccw/0002-ccw-go-on.patch"
    assert series.refresh(queue) == [new, old, "series"]
    assert series.patches(queue)[-1].name == new
    assert series.patches(queue)[-1].subject == "ccw: carry on"
    assert not (queue.patches / old).exists()


def test_what_refresh_wrote_gives_the_tree_back(queue: Project) -> None:
    commit(queue.git, "ccw: go on", ("hw/ccw.c", "ccw line 1\n", "on\n"))
    files = queue.git("rev-parse", "HEAD^{tree}")
    series.refresh(queue)
    assert not series.state(queue).local
    series.ensure(queue, discard=True)
    assert queue.git("rev-parse", "HEAD^{tree}") == files
    assert series.refresh(queue) == []


def test_comments_of_the_series_survive(queue: Project) -> None:
    commit(queue.git, "ccw: go on", ("hw/ccw.c", "ccw line 1\n", "on\n"))
    series.refresh(queue)
    text = COMMENTED.replace("{2}\n", "{2}\n{3}\n")
    assert queue.series.read_text() == text.format(*(patch.name for patch in series.patches(queue)))


def test_refresh_refuses_a_dirty_tree(queue: Project) -> None:
    before = queue.queue()
    edit(queue.tree, "hw/bus.c", "bus line 30\n", "mine\n")
    with pytest.raises(QapError, match="not committed"):
        series.refresh(queue)
    assert queue.queue() == before


def test_reason_beside_a_patch_survives(queue: Project) -> None:
    """A comment may follow a name: patches() accepts that, so refresh has to keep it."""
    text = queue.series.read_text().replace("tell.patch\n", "tell.patch  # not upstream: no\n")
    queue.series.write_text(text)
    assert series.refresh(queue) == []
    assert queue.series.read_text() == text


def test_head_of_the_series_survives_its_first_topic(queue: Project) -> None:
    queue.git("rebase", "-q", "--onto", "HEAD~3", "HEAD~1")
    series.refresh(queue)
    assert queue.series.read_text().startswith("# The queue, in order.\n")


def test_subject_beyond_ascii_keeps_its_topic(queue: Project) -> None:
    queue.add_patch("sim/0001-x.patch", "sim: zurück", ("hw/ccw.c", "ccw line 1\n", "on\n"))
    series.ensure(queue)
    series.refresh(queue)
    assert [patch.topic for patch in series.patches(queue)] == ["fence", "fence", "ccw", "sim"]


# patches that do not apply

FAR = (("hw/bus.c", "bus line 5\n", "five\n"), ("hw/bus.c", "bus line 35\n", "thirty-five\n"))


@pytest.mark.parametrize("line", [35, 32], ids=["the line itself", "context, so only fuzz helps"])
def test_a_patch_that_does_not_apply_is_named_to_the_hunk(project: Project, line: int) -> None:
    project.add_patch("fence/0001-good.patch", "good", ("hw/bus.c", "bus line 20\n", "fine\n"))
    project.add_patch("fence/0002-far.patch", "far", ("hw/pci.c", "pci line 1\n", "one\n"), *FAR)
    edit(project.source, "hw/bus.c", f"bus line {line}\n", "upstream moved on\n")
    project.bring()
    with pytest.raises(QapError, match=r"fence/0002-far\.patch .*hw/bus\.c, hunk 2\b") as refused:
        series.ensure(project)
    assert "0001-good" not in str(refused.value)


def test_a_patch_whose_lines_have_moved_applies(project: Project) -> None:
    project.add_patch("fence/0001-far.patch", "far", *FAR)
    edit(project.source, "hw/bus.c", "bus line 1\n", "three\nmore\nlines\nbus line 1\n")
    project.bring()
    series.ensure(project)
    assert project.log() == ["far"]


def test_a_patch_for_a_missing_file_is_named_with_it(project: Project) -> None:
    project.add_patch("fence/0001-far.patch", "far", *FAR)
    (project.source / "hw/bus.c").unlink()
    project.bring()
    with pytest.raises(QapError, match=r"fence/0001-far\.patch .*hw/bus\.c, hunk 1\b"):
        series.ensure(project)


def test_a_bad_patch_leaves_the_tree_as_it_was(queue: Project) -> None:
    head = queue.git.head()
    edit(queue.patches, "fence/0002-pci-tell.patch", "-pci line 9", "-pci line 999")
    with pytest.raises(QapError, match="0002-pci-tell"):
        series.ensure(queue, update=True)
    assert queue.git.head() == head
    assert not series.state(queue).dirty


def test_series_line_without_its_patch_is_named(queue: Project) -> None:
    queue.series.write_text("# comment\n\nfence/0001-bus-ask.patch\nfence/0009-gone.patch\n")
    with pytest.raises(
        UsageError, match=r"qemu/series line 4: .*fence/0009-gone\.patch is missing"
    ):
        series.patches(queue)


def test_patch_without_author_and_subject_is_named(project: Project) -> None:
    project.add_patch("fence/0001-far.patch", "far", *FAR)
    path = project.patches / "fence/0001-far.patch"
    path.write_text(path.read_text().partition("\n---\n")[2])
    project.bring()
    with pytest.raises(QapError, match="0001-far"):
        series.ensure(project)


def test_nothing_is_lost_where_the_first_patch_never_applied(project: Project) -> None:
    project.add_patch("fence/0001-far.patch", "far", *FAR)
    edit(project.source, "hw/bus.c", "bus line 5\n", "upstream moved on\n")
    project.bring()
    with pytest.raises(QapError, match="0001-far"):
        series.ensure(project, update=True)
    series.refuse_to_lose(project)


# the queue of this repository


def real(name: str) -> Patch:
    return Patch(name, REAL.patches / name)


def test_every_patch_file_is_in_the_series_once() -> None:
    files = {str(path.relative_to(REAL.patches)) for path in REAL.patches.glob("**/*.patch")}
    assert sorted(NAMES) == sorted(files)
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_patch_does_not_tell_which_commit_it_was(name: str) -> None:
    assert real(name).text.startswith(f"From {'0' * 40} ")


@pytest.mark.parametrize("name", NAMES)
def test_patch_says_whether_it_was_forwarded_and_who_signs(name: str) -> None:
    assert len(real(name).trailers("Forwarded")) == 1
    assert real(name).trailers("Signed-off-by")


@pytest.mark.parametrize("name", NAMES)
def test_patch_names_tests_that_are_here(name: str) -> None:
    named = real(name).trailers("Test")
    assert named
    missing = [test for test in named if not (REAL.root / test.partition(":")[0]).is_file()]
    assert missing == []


FORK_TESTS = REAL.root / "tests/qtest-py/fork"


@pytest.mark.parametrize("folder", [path.parent.name for path in FORK_TESTS.glob("*/README.md")])
def test_folder_of_tests_says_which_patches_name_them(folder: str) -> None:
    naming = [
        name.partition("-")[0]
        for name in NAMES
        if any(f"/fork/{folder}/" in test for test in real(name).trailers("Test"))
    ]
    said = (FORK_TESTS / folder / "README.md").read_text()
    assert said.rstrip(".\n").partition("Patches: ")[2].split(", ") == naming


def test_base_is_left_as_it_was(queue: Project) -> None:
    commit(queue.git, "mine", ("hw/bus.c", "bus line 30\n", "mine\n"))
    series.refresh(queue)
    assert "bus line 30\n" in (queue.base_tree / "hw/bus.c").read_text()
    assert base.info(queue) == queue.bring()
