"""Work done in qemu/tree is never lost, and the queue never shrinks by accident."""

import subprocess

import pytest

from qap.fork import base, series
from qap.host.errors import QapError

from ..project import Project, edit, write


@pytest.fixture
def queue(project: Project) -> Project:
    """Two patches and qemu/tree made from them."""
    project.add_patch("fence/0001-a.patch", "a", ("hw/bus.c", "bus line 5\n", "bus asks\n"))
    project.add_patch("fence/0002-b.patch", "b", ("hw/pci.c", "pci line 9\n", "pci tells\n"))
    project.bring()
    series.ensure(project)
    return project


def test_refresh_waits_for_a_rebase_to_end(queue: Project) -> None:
    """While the rebase is at the first of two patches, HEAD does not have the second."""
    before = queue.queue()
    subprocess.run(
        ["git", "-C", str(queue.tree), "rebase", "-q", "-i", "qap-base"],
        env={"GIT_SEQUENCE_EDITOR": "sed -i 1s/pick/edit/", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )
    with pytest.raises(QapError, match="in the middle of a rebase"):
        series.refresh(queue)
    assert queue.queue() == before


def another_base(queue: Project, old: str, new: str) -> None:
    edit(queue.source, "hw/bus.c", old, new)
    base.ensure(queue, str(queue.source))


def test_base_that_the_patches_do_not_fit_leaves_tree_and_queue(queue: Project) -> None:
    """They stay as they were, so that the commits can be rebased onto qap-base."""
    before = queue.queue()
    another_base(queue, "bus line 5\n", "bus line five\n")
    with pytest.raises(QapError, match=r"0001-a\.patch does not apply"):
        series.ensure(queue, update=True)
    assert queue.git("log", "--format=%s", "-2").split() == ["b", "a"]
    with pytest.raises(QapError, match="rebase its commits onto qap-base"):
        series.refresh(queue)
    assert queue.queue() == before
    queue.git("rev-parse", "--verify", "qap-base")


def test_another_base_does_not_overwrite_uncommitted_work(queue: Project) -> None:
    write(queue.tree / "hw/ccw.c", "my work\n")
    another_base(queue, "bus line 1\n", "bus line one\n")
    series.ensure(queue)
    assert (queue.tree / "hw/ccw.c").read_text() == "my work\n"
    with pytest.raises(QapError, match="not committed"):
        series.ensure(queue, update=True)
