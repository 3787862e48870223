"""A poll ends when it has an answer, or when both its time and its turns are over."""

import pytest

from qap.host.wait import FEWEST, poll_until


def test_poll_whose_time_is_over_has_its_turns() -> None:
    calls = 0

    def met() -> None:
        nonlocal calls
        calls += 1

    with pytest.raises(TimeoutError, match="waited 0 s for it"):
        poll_until(met, 0, lambda: "it")
    assert calls == FEWEST


def test_answer_that_comes_in_the_last_turn_counts() -> None:
    answers = iter([*[None] * (FEWEST - 1), "here"])
    assert poll_until(lambda: next(answers), 0, lambda: "it") == "here"
