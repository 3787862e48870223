"""The loudspeaker behind a vhost-user-snd (virtio 1.3, 5.14.6)."""

import struct

import pytest

from qap.vhost_user.chain_service import LATER, YIELD, Answer, At
from qap.vhost_user.sound import CONTROLQ, EVENTQ, RXQ, TXQ, Loudspeaker

INFO, SET, PREPARE, RELEASE, START, STOP = range(0x100, 0x106)
OK, BAD_MSG, NOT_SUPP, IO_ERR = range(0x8000, 0x8004)
U8, S16, RATE_8000, RATE_48000 = 4, 5, 1, 7
ROOM = 4096


class Clock:
    """A time that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def speaker(clock: Clock) -> Loudspeaker:
    return Loudspeaker(clock)


def code(answer: Answer) -> int:
    assert isinstance(answer, bytes)
    return int(struct.unpack_from("<I", answer)[0])


def command(speaker: Loudspeaker, number: int, more: bytes = b"", stream: int = 0) -> int:
    return code(speaker(CONTROLQ, struct.pack("<II", number, stream) + more, ROOM))


def params(channels: int = 1, form: int = U8, rate: int = RATE_8000, period: int = 800) -> bytes:
    return struct.pack("<IIIBBBx", 8 * 800, period, 0, channels, form, rate)


def started(speaker: Loudspeaker, more: bytes) -> None:
    assert [command(speaker, SET, more), command(speaker, PREPARE), command(speaker, START)] == [
        OK
    ] * 3


def until(answer: Answer) -> float:
    """When a buffer that plays is over."""
    assert isinstance(answer, At)
    return answer.when


def send(speaker: Loudspeaker, samples: bytes, stream: int = 0) -> Answer:
    return speaker(TXQ, struct.pack("<I", stream) + samples, 8)


def test_one_stream_of_output_is_described(speaker: Loudspeaker) -> None:
    answer = speaker(CONTROLQ, struct.pack("<IIII", INFO, 0, 1, 32), ROOM)
    assert isinstance(answer, bytes)
    assert (code(answer), len(answer)) == (OK, 4 + 32)
    _, features, formats, rates, direction, low, high = struct.unpack_from("<IIQQBBB", answer, 4)
    assert (features, direction, low, high) == (0, 0, 1, 2)
    assert formats == 1 << U8 | 1 << S16
    assert rates >> RATE_8000 & 1
    assert rates >> RATE_48000 & 1


@pytest.mark.parametrize("asked", [(1, 1, 32), (0, 2, 32), (0, 1, 16)])
def test_other_streams_are_not(speaker: Loudspeaker, asked: tuple[int, int, int]) -> None:
    assert code(speaker(CONTROLQ, struct.pack("<IIII", INFO, *asked), ROOM)) == BAD_MSG
    assert command(speaker, SET, params(), stream=1) == BAD_MSG
    assert code(send(speaker, bytes(8), stream=1)) == BAD_MSG


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        (params(), OK),
        (params(2, S16, RATE_48000), OK),
        (params(channels=3), NOT_SUPP),
        (params(form=20), NOT_SUPP),
        (params(rate=13), NOT_SUPP),
        (params(period=0), BAD_MSG),
        (params(period=799), BAD_MSG),
        (params()[:-1], BAD_MSG),
    ],
)
def test_parameters_are_checked(speaker: Loudspeaker, more: bytes, answer: int) -> None:
    assert command(speaker, SET, more) == answer


def test_commands_that_it_does_not_know(speaker: Loudspeaker) -> None:
    assert command(speaker, 1) == NOT_SUPP
    assert code(speaker(CONTROLQ, b"", ROOM)) == NOT_SUPP
    assert code(speaker(CONTROLQ, struct.pack("<I", START), ROOM)) == BAD_MSG


def test_commands_are_taken_in_their_order(speaker: Loudspeaker) -> None:
    assert [command(speaker, one) for one in (PREPARE, START, STOP, RELEASE)] == [BAD_MSG] * 4
    started(speaker, params())
    assert [command(speaker, SET, params()), command(speaker, PREPARE)] == [BAD_MSG] * 2
    assert [command(speaker, one) for one in (STOP, START, STOP)] == [OK] * 3


def test_buffer_is_used_when_it_has_been_played(speaker: Loudspeaker, clock: Clock) -> None:
    """400 samples take 50 ms, and those of the next buffer begin then."""
    started(speaker, params())
    assert until(send(speaker, bytes(400))) == pytest.approx(100.05)
    clock.now = 100.04
    assert until(send(speaker, bytes(400))) == pytest.approx(100.05)
    assert not speaker.heard
    clock.now = 100.07
    assert code(send(speaker, bytes(400))) == OK
    assert until(send(speaker, bytes(range(80)))) == pytest.approx(100.08)
    clock.now = 101.0
    assert code(send(speaker, bytes(range(80)))) == OK
    assert speaker.heard == bytes(400) + bytes(range(80))
    assert until(send(speaker, bytes(80))) == pytest.approx(101.01)


def test_sample_of_two_channels_has_four_bytes(speaker: Loudspeaker) -> None:
    started(speaker, params(2, S16, RATE_48000))
    assert until(send(speaker, bytes(19200))) == pytest.approx(100.1)


def test_buffers_wait_while_it_does_not_play(speaker: Loudspeaker, clock: Clock) -> None:
    command(speaker, SET, params())
    command(speaker, PREPARE)
    assert send(speaker, bytes(8)) is LATER
    command(speaker, START)
    assert isinstance(send(speaker, bytes(8)), At)
    command(speaker, STOP)
    clock.now = 200.0
    assert send(speaker, bytes(8)) is LATER


def test_release_is_answered_after_what_waits(speaker: Loudspeaker) -> None:
    started(speaker, params())
    assert isinstance(send(speaker, bytes(400)), At)
    command(speaker, STOP)
    release = struct.pack("<II", RELEASE, 0)
    assert speaker(CONTROLQ, release, ROOM) is YIELD
    assert code(send(speaker, bytes(400))) == IO_ERR
    assert code(speaker(CONTROLQ, release, ROOM)) == OK
    assert command(speaker, RELEASE) == BAD_MSG
    started(speaker, params())


def test_what_was_heard_is_of_the_last_parameters(speaker: Loudspeaker, clock: Clock) -> None:
    started(speaker, params())
    send(speaker, b"one")
    clock.now += 1
    send(speaker, b"one")
    assert speaker.heard == b"one"
    command(speaker, STOP)
    speaker(CONTROLQ, struct.pack("<II", RELEASE, 0), ROOM)
    command(speaker, SET, params())
    assert not speaker.heard


def test_nothing_comes_from_it(speaker: Loudspeaker) -> None:
    assert speaker(EVENTQ, b"", 8) is LATER
    assert speaker(RXQ, bytes(4), 64) is LATER
