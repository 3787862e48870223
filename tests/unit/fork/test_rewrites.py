"""No patch writes anew what an earlier one of its topic wrote."""

import pytest

from qap.fork import series
from qap.fork.rewrites import Rewrite, rewrites
from qap.host.errors import QapError

from ..project import Project, edit
from .test_series import REAL

# A function of ten lines that count, after line 5 of a file.
HEAD = "static bool bus_ask(Bus *bus,\n                    Error **errp)\n"
BODY = [f"    step{number}(bus);\n" for number in range(1, 9)]
FUNCTION = f"{HEAD}{{\n{''.join(BODY)}}}\n"
AT = "bus line 5\n"
FIRST, SECOND = "fence/0001-bus-ask.patch", "fence/0002-bus-ask-again.patch"


def found(project: Project) -> list[Rewrite]:
    """What is no small part."""
    return [one for one in rewrites(series.patches(project)) if not one.small]


@pytest.fixture
def queue(project: Project) -> Project:
    """A queue whose first patch adds a function."""
    project.add_patch(FIRST, "bus: ask", ("hw/bus.c", AT, AT + FUNCTION))
    return project


def test_function_that_is_written_anew_is_named_with_both_patches(queue: Project) -> None:
    better = "".join(BODY[:4]).replace("step", "leap")
    queue.add_patch(SECOND, "bus: ask again", ("hw/bus.c", "".join(BODY[:4]), better))
    (one,) = found(queue)
    assert (one.earlier, one.later, one.file, one.function) == (
        FIRST,
        SECOND,
        "hw/bus.c",
        "bus_ask()",
    )
    assert (one.changed, one.written) == (4, 10)
    assert FIRST in str(one) and SECOND in str(one) and "bus_ask()" in str(one)


def test_function_that_is_moved_is_one_that_is_rewritten(queue: Project) -> None:
    elsewhere = "bus line 30\n"
    queue.add_patch(
        SECOND,
        "bus: move it",
        ("hw/bus.c", FUNCTION, ""),
        ("hw/bus.c", elsewhere, elsewhere + FUNCTION),
    )
    (one,) = found(queue)
    assert (one.changed, one.written, one.head) == (10, 10, True)


def test_patches_between_do_not_hide_it(queue: Project) -> None:
    queue.add_patch("fence/0002-bus.patch", "bus: more", ("hw/bus.c", "bus line 2\n", "one\ntwo\n"))
    queue.add_patch("fence/0003-pci.patch", "pci: more", ("hw/pci.c", "pci line 2\n", "one\n"))
    queue.add_patch("fence/0004-bus.patch", "bus: drop it", ("hw/bus.c", FUNCTION, ""))
    (one,) = found(queue)
    assert (one.earlier, one.later) == (FIRST, "fence/0004-bus.patch")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("".join(BODY[:3]), "    leap(bus);\n"),
        (BODY[7], BODY[7] + "    more(bus);\n" * 20),
        ("{\n", "{\n\n"),
    ],
    ids=["less than a third", "more at its end", "a blank line"],
)
def test_small_part_is_no_rewrite(queue: Project, old: str, new: str) -> None:
    queue.add_patch(SECOND, "bus: ask more", ("hw/bus.c", old, new))
    assert found(queue) == []


def test_few_lines_of_a_function_of_upstream_may_change_again(project: Project) -> None:
    edit(project.source, "hw/bus.c", AT, FUNCTION)
    for number, name in enumerate((FIRST, SECOND), 1):
        old = "".join(BODY[:3]) if number == 1 else "    leap1(bus);\n" * 3
        new = f"    leap{number}(bus);\n" * 3
        project.add_patch(name, f"bus: leap {number}", ("hw/bus.c", old, new))
    (one,) = rewrites(series.patches(project))
    assert (one.changed, one.written, one.small) == (3, 3, True)


def test_another_topic_may_write_it_anew(queue: Project) -> None:
    queue.add_patch("ccw/0001-bus.patch", "bus: drop it", ("hw/bus.c", FUNCTION, ""))
    assert found(queue) == []


def test_line_numbers_that_do_not_fit_are_refused(queue: Project) -> None:
    queue.add_patch(SECOND, "bus: ask more", ("hw/bus.c", BODY[3], "    leap(bus);\n"))
    edit(queue.patches, SECOND, "\n@@ -9,", "\n@@ -10,")
    with pytest.raises(QapError, match=r"0002-bus-ask-again.*qap refresh"):
        rewrites(series.patches(queue))


def test_no_patch_of_this_queue_rewrites_an_earlier_one_of_its_topic() -> None:
    assert [str(one) for one in found(Project(REAL.root))] == []
