"""The keyboard behind a vhost-user-input (virtio 1.3, 5.8)."""

import struct

import pytest

from qap.machine.guest.input_events import EV_KEY, KEY_A, SENT
from qap.vhost_user.chain_service import LATER
from qap.vhost_user.input import EVENTQ, STATUSQ, Keyboard, selected

SIZE = 136


def read(select: int, subsel: int = 0) -> bytes:
    """What the driver finds after it has written select and subsel."""
    config = selected(bytes((select, subsel)).ljust(SIZE, b"\xee"))
    assert (len(config), config[0], config[1]) == (SIZE, select, subsel)
    assert not any(config[8 + config[2] :])
    return config[8 : 8 + config[2]]


def test_it_has_a_name_and_ids() -> None:
    assert read(1) == b"QAP vhost-user keyboard"
    assert read(2)
    assert struct.unpack("<HHHH", read(3))[0] == 6


def test_it_has_keys_and_nothing_else() -> None:
    keys = read(0x11, EV_KEY)
    assert keys[KEY_A // 8] >> KEY_A % 8 & 1
    assert not keys[0] & 1
    for kind in {*range(32)} - {EV_KEY}:
        assert read(0x11, kind) == b""
    for select in (0, 0x10, 0x12, 0x77):
        assert read(select) == b""


@pytest.mark.parametrize("select", [1, 2, 3])
def test_subsel_has_to_be_zero(select: int) -> None:
    """5.8.5.1: what is not there has size 0."""
    assert read(select, 1) == b""


def test_nothing_comes_until_a_key_is_pressed() -> None:
    keyboard, woken = Keyboard(), []
    keyboard.wake = lambda: woken.append(True)
    assert keyboard(EVENTQ, b"", 8) is LATER
    keyboard.send(SENT["key"])
    keyboard.undo(SENT["key"])
    assert len(woken) == 2
    events = [keyboard(EVENTQ, b"", 8) for _ in range(4)]
    assert [struct.unpack("<HHi", one) for one in events if isinstance(one, bytes)] == [
        (1, 30, 1),
        (0, 0, 0),
        (1, 30, 0),
        (0, 0, 0),
    ]
    assert keyboard(EVENTQ, b"", 8) is LATER


def test_what_it_is_told_is_taken() -> None:
    assert Keyboard()(STATUSQ, struct.pack("<HHi", 0x11, 0, 1), 0) == b""
