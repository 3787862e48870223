"""What messages leave standing at a back-end's rings."""

import struct

from qap.vhost_user.protocol import FrontendRequest
from qap.vhost_user.records import Received
from qap.vhost_user.standing import standing

R = FrontendRequest
NO_FD = 1 << 8


def state(request: R, queue: int, value: int = 0) -> Received:
    return Received(request, struct.pack("=II", queue, value), 0)


def address(queue: int) -> Received:
    return Received(R.SET_VRING_ADDR, struct.pack("=IIQQQQ", queue, 0, 0, 0, 0, 0), 0)


def kick(word: int) -> Received:
    return Received(R.SET_VRING_KICK, struct.pack("=Q", word), 1)


STARTED = [state(R.SET_VRING_ENABLE, 1, 1), address(1), kick(1)]


def test_a_started_ring_stands() -> None:
    assert standing(STARTED) == {1: {"address", "kick", "enabled"}}


def test_get_vring_base_stops_a_ring_that_stays_enabled() -> None:
    assert standing([*STARTED, state(R.GET_VRING_BASE, 1)]) == {1: {"enabled"}}


def test_only_its_own_queue_is_stopped() -> None:
    stops = [state(R.GET_VRING_BASE, 0), state(R.SET_VRING_ENABLE, 0)]
    assert standing([*STARTED, *stops]) == standing(STARTED)


def test_nothing_stands_once_all_is_taken_back() -> None:
    stops = [state(R.SET_VRING_ENABLE, 1), state(R.GET_VRING_BASE, 1)]
    assert standing([*STARTED, *stops]) == {}


def test_no_kick_is_none() -> None:
    assert standing([kick(1 | NO_FD)]) == {}


def test_a_new_session_has_nothing() -> None:
    assert standing([*STARTED, Received(R.SET_OWNER, b"", 0)]) == {}
