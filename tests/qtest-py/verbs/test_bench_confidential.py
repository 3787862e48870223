"""The workload of `qap bench confidential` ends, and costs the same in a second run."""

import pytest

from qap.fork.build import Build
from qap.measure.page_walks import PAGES, Walks


def test_more_work_takes_more_instructions_the_same_each_time() -> None:
    build = Build.under_test()
    little, much = Walks(build, 1, rounds=2).sample(), Walks(build, PAGES, rounds=2).sample()
    assert much > little + PAGES
    assert Walks(build, 1, rounds=2).sample() == pytest.approx(little, rel=0.02)
