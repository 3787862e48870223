"""Input events that QEMU or a back-end sends, and what the guest's evdev makes of them."""

import base64
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from qap.host.errors import QapError
from qap.machine.guest.console import Console
from qap.machine.qmp import Qmp

EV_KEY, EV_REL, EV_ABS = 1, 2, 3
KEY_A, REL_X, ABS_X, ABS_MT_TRACKING_ID = 30, 0, 0, 0x39
READ_S = 20.0


class Event(NamedTuple):
    """An event of linux/input.h, without its time."""

    type: int
    code: int
    value: int


class Sent(NamedTuple):
    """What QMP input-send-event is told, and what comes of it in the guest.

    `undone` takes it back, so that the same can be sent again; None: nothing has to be.
    """

    told: dict[str, object]
    event: Event
    words: str
    undone: dict[str, object] | None = None


SENT = {
    "key": Sent(
        {"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": "a"}}},
        Event(EV_KEY, KEY_A, 1),
        "the key A",
        {"type": "key", "data": {"down": False, "key": {"type": "qcode", "data": "a"}}},
    ),
    "motion": Sent(
        {"type": "rel", "data": {"axis": "x", "value": 5}}, Event(EV_REL, REL_X, 5), "a motion by 5"
    ),
    "position": Sent(
        {"type": "abs", "data": {"axis": "x", "value": 4711}},
        Event(EV_ABS, ABS_X, 4711),
        "the position 4711",
        {"type": "abs", "data": {"axis": "x", "value": 0}},
    ),
    "touch": Sent(
        {
            "type": "mtt",
            "data": {"type": "begin", "slot": 0, "tracking-id": 7, "axis": "x", "value": 0},
        },
        Event(EV_ABS, ABS_MT_TRACKING_ID, 7),
        "a touch with the tracking ID 7",
        {
            "type": "mtt",
            "data": {"type": "end", "slot": 0, "tracking-id": -1, "axis": "x", "value": 0},
        },
    ),
}


class Sender(Protocol):
    """What sends the guest's device an event: `Qemu`, or a back-end of its own."""

    def send(self, sent: Sent) -> None:
        """Send it."""

    def undo(self, sent: Sent) -> None:
        """Take it back, so that the same can be sent again."""


@dataclass(frozen=True)
class Qemu:
    """QEMU, which sends it to the device that takes such events."""

    qmp: Qmp

    def send(self, sent: Sent) -> None:
        """See `Sender`."""
        self.qmp.execute("input-send-event", events=[sent.told])

    def undo(self, sent: Sent) -> None:
        """See `Sender`."""
        if sent.undone:
            self.qmp.execute("input-send-event", events=[sent.undone])


class WrongEvent(QapError):
    """The guest got another event than was sent."""


def receive(
    console: Console, sender: Sender, name: str, kind: str, order: Literal["little", "big"]
) -> list[str]:
    """Send one event, and have the guest read it from the device.

    Args:
        sender: what sends it.
        name: of the device under /sys/bus/virtio/devices.
        kind: a key of SENT.
        order: the guest's byte order.
    Raises:
        WrongEvent: another one came.
        TimeoutError: none came.
    """
    sent = SENT[kind]
    node = f"/sys/bus/virtio/devices/{name}/input/input*/event*"
    # Only what comes after the file is open can be read.
    console.check(
        f'await "ls -d {node}" && rm -f /tmp/open /tmp/event && '
        f"file=/dev/input/$(basename {node}) && "
        "(exec 9<$file; echo >/tmp/open; dd bs=24 count=1 <&9 >/tmp/event 2>/dev/null) & "
        'await "test -e /tmp/open"'
    )
    sender.send(sent)
    script = 'await "test -s /tmp/event" && base64 /tmp/event'
    raw = base64.b64decode(console.check(script, READ_S))
    mark = "<" if order == "little" else ">"
    got = Event(*struct.unpack(f"{mark}16xHHi", raw))
    if got != sent.event:
        raise WrongEvent(f"it was sent {sent.event}, and the guest got {got}")
    sender.undo(sent)
    return [f"guest got {sent.words}"]
