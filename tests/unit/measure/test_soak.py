"""What a soak does with its cycles, and what counts as growth."""

from collections import Counter

import pytest

from qap.fork.build import Build
from qap.machine.resources import Footprint
from qap.measure.soak import _shares
from qap.measure.soak_cycle import Soak, rotation, sanitizer_report

MIB = 1 << 20
NOTHING = Footprint(Counter(), 1, Counter(), Counter(), 0)
UBSAN = "../../hw/block/virtio-blk.c:12:3: runtime error: load of misaligned address 0x1\n"
LEAK = """\
qemu-system-x86_64: terminating on signal 15

==42==ERROR: LeakSanitizer: detected memory leaks
Direct leak of 256 byte(s) in 1 object(s) allocated from:
"""


def test_every_third_cycle_fails_and_every_device_is_served() -> None:
    steps = rotation()
    assert [step.refused for step in steps] == [False, False, True] * (len(steps) // 3)
    served = {step.config.device for step in steps if not step.refused}
    assert len(served) == 14
    assert len({step.name for step in steps if step.refused}) == len(steps) // 3


@pytest.mark.parametrize(("cycles", "jobs"), [(10, 3), (9, 3), (1, 1)])
def test_processes_share_all_the_cycles(cycles: int, jobs: int) -> None:
    shares = _shares(cycles, jobs)
    assert (sum(shares), len(shares)) == (cycles, jobs)
    assert max(shares) - min(shares) <= 1


def test_growth_is_named_and_shrinking_is_none() -> None:
    before = Footprint(Counter({"socket": 3}), 4, Counter({"memory": 1}), Counter(), 0)
    after = Footprint(Counter({"socket": 5}), 5, Counter(), Counter({"/chardevs x": 1}), 0)
    assert after.beyond(before) == [
        "2 more file descriptor socket (of 3)",
        "1 more QOM /chardevs x (of 0)",
        "1 more threads (of 4)",
    ]
    assert NOTHING.beyond(before) == []


def test_one_kind_that_grows_is_not_hidden_by_another_that_shrinks() -> None:
    before = Footprint(Counter({"socket": 3}), 1, Counter(), Counter(), 0)
    after = Footprint(Counter({"eventfd": 1}), 1, Counter(), Counter(), 0)
    assert after.beyond(before) == ["1 more file descriptor eventfd (of 0)"]


@pytest.mark.parametrize(
    ("sizes", "grows"),
    [
        ([20, 20, 20, 21, 22, 23, 24], False),
        ([20, 20, 20, 22, 24, 26, 28], True),
        # One sample that sticks out is not a trend.
        ([20, 20, 20, 20, 20, 20, 90], False),
    ],
)
def test_memory_may_waver_and_must_not_grow(sizes: list[int], grows: bool) -> None:
    soak = Soak(Build("lab"), 0)
    soak.samples = [{"resident": size * MIB} for size in sizes]
    soak._judge_memory()
    assert bool(soak.problems) == grows


@pytest.mark.parametrize(
    ("said", "report"),
    [
        (LEAK, LEAK.partition("\n\n")[2].strip()),
        (f"a\n{UBSAN}b\n", f"{UBSAN}b"),
        ("qemu-system-x86_64: warning: nothing of that kind\n", ""),
    ],
)
def test_report_of_a_sanitizer_is_found_from_its_first_line(said: str, report: str) -> None:
    assert sanitizer_report(said) == report
