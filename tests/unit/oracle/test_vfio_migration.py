import pytest

from qap.oracle.vfio_migration import (
    Flag,
    State,
    forbidden,
    grant,
    saved_whole,
    stopped_early,
    together,
    way_back,
)

PLAIN = {State.RUNNING, State.STOP, State.STOP_COPY, State.RESUMING}


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (Flag.STOP_COPY, set()),
        (Flag.STOP_COPY | Flag.P2P, {State.RUNNING_P2P}),
        (Flag.STOP_COPY | Flag.PRE_COPY, {State.PRE_COPY}),
        (
            Flag.STOP_COPY | Flag.P2P | Flag.PRE_COPY,
            {State.RUNNING_P2P, State.PRE_COPY, State.PRE_COPY_P2P},
        ),
    ],
)
@pytest.mark.parametrize("unknown", [0, 1 << 3, 1 << 63, 1 << 3 | 1 << 63])
def test_each_defined_combination_has_its_states(
    flags: Flag, more: set[State], unknown: int
) -> None:
    given = grant(flags | unknown)
    assert given.granted
    assert given.missing == ""
    assert given.states == PLAIN | more
    assert given.unknown == unknown


@pytest.mark.parametrize("flags", [0, 2, 4, 6, 1 << 3, 1 << 63 | 6])
def test_without_stop_copy_nothing_is_granted(flags: int) -> None:
    given = grant(flags)
    assert not given.granted
    assert given.missing == "STOP_COPY"
    assert given.states == set()


def test_error_is_never_to_be_asked_for() -> None:
    assert all(State.ERROR not in grant(flags).states for flags in range(16))


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ([], ""),
        ([1], ""),
        ([3, 3], ""),
        ([7, 3 | 1 << 63], ""),
        ([1, 3], "P2P"),
        ([3, 5, 7], "P2P"),
        ([7, 6], "STOP_COPY"),
        ([2], "STOP_COPY"),
    ],
)
def test_several_devices_need_p2p(flags: list[int], missing: str) -> None:
    assert together(flags) == missing


def test_states_beyond_the_flags_are_found() -> None:
    entered = [State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY]
    assert forbidden(entered, 0x7) == set()
    assert forbidden(entered, 0x5) == {State.PRE_COPY_P2P}
    assert forbidden(entered, 0x1) == {State.PRE_COPY, State.PRE_COPY_P2P}


def test_a_device_that_stops_beside_one_that_runs_is_found() -> None:
    quiet = [("a", State.RUNNING_P2P), ("b", State.PRE_COPY_P2P)]
    stops = [("a", State.STOP), ("b", State.STOP_COPY)]
    assert stopped_early([*quiet, *stops], ["a", "b"]) == []
    assert stopped_early([quiet[0], stops[0], quiet[1], stops[1]], ["a", "b"]) == ["a"]
    assert stopped_early([*quiet, *stops], ["a", "b", "c"]) == ["a", "b"]
    assert stopped_early(stops[:1], ["a"]) == []


def test_only_the_end_in_stop_copy_is_the_end() -> None:
    assert saved_whole(State.STOP_COPY, "")
    assert not saved_whole(State.STOP_COPY, "ENOMSG")
    assert not saved_whole(State.STOP_COPY, "EIO")
    assert not saved_whole(State.PRE_COPY, "")


def test_what_brings_a_device_back() -> None:
    ways = {state: way_back(state) for state in State}
    assert {state for state, way in ways.items() if way == "reset"} == {
        State.ERROR,
        State.RESUMING,
    }
