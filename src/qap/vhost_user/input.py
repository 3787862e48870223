"""A keyboard for vhost-user-input: its configuration, and its events (virtio 1.3, 5.8)."""

import struct
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from qap.machine.guest.input_events import EV_KEY, Sent
from qap.vhost_user.chain_service import LATER, Later

# 5.8.2.
EVENTQ, STATUSQ = 0, 1
# 5.8.4: select, subsel and size, reserved bytes, and what is selected.
HEAD = struct.Struct("<BBB5x")
ROOM = 128
SIZE = HEAD.size + ROOM
DEVIDS = struct.Struct("<HHHH")
# 5.8.6: type, code and value.
EVENT = struct.Struct("<HHi")

# Of linux/input-event-codes.h and linux/input.h.
EV_SYN, SYN_REPORT = 0, 0
BUS_VIRTUAL = 6
NAME = b"QAP vhost-user keyboard"
SERIAL = b"qap-keyboard-0"
# KEY_ESC to KEY_DELETE: a keyboard to Linux has all of the first 31.
KEYS = range(1, 112)


class Select(IntEnum):
    """VIRTIO_INPUT_CFG_* (5.8.4)."""

    UNSET = 0x00
    ID_NAME = 0x01
    ID_SERIAL = 0x02
    ID_DEVIDS = 0x03
    PROP_BITS = 0x10
    EV_BITS = 0x11
    ABS_INFO = 0x12


def selected(config: bytes) -> bytes:
    """The configuration space once the driver has written select and subsel.

    What the keyboard does not have is of size 0 (5.8.5.1).
    """
    select, subsel, _ = HEAD.unpack_from(config)
    what = _what(select, subsel)
    return HEAD.pack(select, subsel, len(what)) + what.ljust(ROOM, b"\0")


def _what(select: int, subsel: int) -> bytes:
    if select == Select.EV_BITS:
        return _bitmap(KEYS) if subsel == EV_KEY else b""
    if subsel:
        return b""
    if select == Select.ID_NAME:
        return NAME
    if select == Select.ID_SERIAL:
        return SERIAL
    if select == Select.ID_DEVIDS:
        return DEVIDS.pack(BUS_VIRTUAL, 0, 0, 0)
    return b""


def _bitmap(bits: range) -> bytes:
    """Bit 0 is the lowest one of the first byte."""
    number = sum(1 << bit for bit in bits)
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


class Keyboard:
    """A `ChainService` whose keys a test presses, from another thread.

    Attributes:
        wake: has waiting chains served; whoever makes the back-end sets it.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], None] = _nobody
        self._queued: deque[bytes] = deque()

    def key(self, code: int, value: int) -> None:
        """Press a key (1) or release it (0).

        Args:
            code: a KEY_ of linux/input-event-codes.h.
        Raises:
            NoAnswer: the back-end has no front-end.
        """
        self._queued.append(EVENT.pack(EV_KEY, code, value))
        self._queued.append(EVENT.pack(EV_SYN, SYN_REPORT, 0))
        self.wake()

    def send(self, sent: Sent) -> None:
        """See `qap.machine.guest.input_events.Sender`; it must be a key."""
        self.key(sent.event.code, sent.event.value)

    def undo(self, sent: Sent) -> None:
        """See `qap.machine.guest.input_events.Sender`."""
        self.key(sent.event.code, 0)

    def __call__(self, queue: int, readable: bytes, room: int) -> bytes | Later:
        """See `ChainService`. What it is told on the statusq, such as LEDs, it does not have."""
        if queue == STATUSQ:
            return b""
        if queue == EVENTQ and self._queued:
            return self._queued.popleft()[:room]
        return LATER


def _nobody() -> None:
    """There is no back-end yet that could serve them."""
