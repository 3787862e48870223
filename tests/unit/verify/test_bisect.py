"""The series up to each patch gets built, and no files are left."""

from pathlib import Path

import pytest

from qap.fork import series
from qap.fork.build import Build
from qap.fork.prefix import Prefix
from qap.host.errors import QapError
from qap.verify.bisect import each

from ..programs import Programs
from ..project import Project, edit

# Called as ninja -C FOLDER TARGET…; fails if bus.c has the word "broken".
NINJA = """\
cd "$2"
if grep -q broken ../../hw/bus.c; then
    echo 'FAILED: bus.o'; echo 'cc bus.c'; echo 'bus.c:5:1: error: broken'; exit 1
fi
cp ../../hw/bus.c qemu-system-x86_64
"""


@pytest.fixture
def queue(project: Project, programs: Programs) -> Project:
    """Three patches: the second breaks what the third repairs."""
    for name, old, new in (
        ("fence/0001-ask.patch", "bus line 5\n", "bus asks\n"),
        ("fence/0002-break.patch", "bus asks\n", "broken\n"),
        ("ccw/0001-repair.patch", "broken\n", "bus works\n"),
    ):
        project.add_patch(name, f"bus: {name}", ("hw/bus.c", old, new))
    project.bring()
    programs.add("ninja", NINJA)
    return project


def fine(build: Build, guest: str) -> str:
    return ""


def scratch(project: Project) -> list[Path]:
    """The files that are left, other than the lock."""
    return [path for path in (project.qemu / "each").iterdir() if path.name != ".lock"]


def test_each_prefix_is_built_and_booted_alone(queue: Project) -> None:
    booted: list[str] = []

    def boots(build: Build, guest: str) -> str:
        booted.append(build.path(f"qemu-system-{guest}").read_text())
        return ""

    report = each(queue, series.patches(queue), "small", boots)
    assert not report.ok
    assert [(row["patch"], row["ok"]) for row in report.results] == [
        ("fence/0001-ask.patch", True),
        ("fence/0002-break.patch", False),
        ("ccw/0001-repair.patch", True),
    ]
    assert "bus.c:5:1: error: broken" in report.results[1]["error"]
    assert report.results[1]["boots"] == {}
    first, last = booted
    assert "bus asks\n" in first
    assert "bus works\n" in last


def test_boot_that_goes_wrong_is_told(queue: Project) -> None:
    report = each(
        queue, series.patches(queue)[:1], "small", lambda build, guest: f"{guest}: it hangs"
    )
    assert not report.ok
    assert report.results[0]["boots"] == {"x86_64": "x86_64: it hangs"}


def test_one_patch_stands_on_those_before_it(queue: Project) -> None:
    report = each(queue, series.patches(queue)[2:], "small", fine)
    assert report.ok
    assert [row["patch"] for row in report.results] == ["ccw/0001-repair.patch"]


def test_only_what_a_patch_changes_is_written_anew(queue: Project, programs: Programs) -> None:
    """Each step starts from the files of the last one, so that ninja rebuilds little."""
    queue.add_patch("ccw/0002-pci.patch", "pci: go", ("hw/pci.c", "pci line 1\n", "on\n"))
    times: list[dict[str, int]] = []

    def boots(build: Build, guest: str) -> str:
        times.append({path.name: path.stat().st_mtime_ns for path in build.tree.glob("hw/*.c")})
        return ""

    each(queue, series.patches(queue)[2:], "small", boots)
    before, after = times
    assert {name for name in after if after[name] != before[name]} == {"pci.c"}
    assert sum(call.startswith("ninja ") for call in programs.calls()) == 2


def test_scratch_tree_goes_away(queue: Project) -> None:
    each(queue, series.patches(queue)[:1], "small", fine)
    assert scratch(queue) == []


@pytest.mark.parametrize("when", ["boots", "builds"])
def test_scratch_tree_goes_away_on_interruption(
    queue: Project, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> str:
        assert (queue.qemu / "each/tree/hw/bus.c").exists()
        raise KeyboardInterrupt

    if when == "builds":
        monkeypatch.setattr(Prefix, "make", interrupt)
    with pytest.raises(KeyboardInterrupt):
        each(queue, series.patches(queue), "small", interrupt)
    assert scratch(queue) == []


def test_work_in_qemu_tree_is_left_alone(queue: Project) -> None:
    series.ensure(queue)
    head = queue.git.head()
    edit(queue.tree, "hw/pci.c", "pci line 30\n", "mine\n")
    each(queue, series.patches(queue)[:1], "small", fine)
    assert queue.git.head() == head
    assert "mine\n" in (queue.tree / "hw/pci.c").read_text()
    assert queue.git("worktree", "list").count("\n") == 1


def test_patch_that_does_not_apply_is_an_error(queue: Project) -> None:
    edit(queue.patches, "fence/0001-ask.patch", "-bus line 5", "-bus line 500")
    with pytest.raises(QapError, match=r"0001-ask\.patch does not apply"):
        each(queue, series.patches(queue)[:1], "small", fine)
    assert scratch(queue) == []


def test_prefix_builds_the_emulators_only(queue: Project) -> None:
    assert list(Build("small").tools()) == ["qemu-system-x86_64", "qemu-img"]
    assert list(Prefix("small").tools()) == ["qemu-system-x86_64"]
