"""What the front-end's messages have left standing at a back-end's rings."""

from collections.abc import Iterable, Mapping
from typing import Literal

from qap.vhost_user.protocol import FrontendRequest
from qap.vhost_user.records import Received
from qap.vhost_user.ring.vring_table import VRING_INDEX, VRING_NO_FD

Standing = Literal["address", "kick", "enabled"]

_R = FrontendRequest


def standing(received: Iterable[Received]) -> Mapping[int, set[Standing]]:
    """What each queue's ring still has after these messages; queues with nothing are left out.

    "address" and "kick" last until GET_VRING_BASE, "enabled" until SET_VRING_ENABLE takes it
    back (vhost-user.rst, "Ring states").
    """
    rings: dict[int, set[Standing]] = {}
    for message in received:
        match message.request:
            case _R.SET_VRING_ADDR:
                rings.setdefault(message.words[0], set()).add("address")
            case _R.SET_VRING_KICK if not message.words[0] & VRING_NO_FD:
                rings.setdefault(message.words[0] & VRING_INDEX, set()).add("kick")
            case _R.GET_VRING_BASE:
                rings.setdefault(message.words[0], set()).difference_update({"address", "kick"})
            case _R.SET_VRING_ENABLE:
                ring = rings.setdefault(message.words[0], set())
                if message.words[1]:
                    ring.add("enabled")
                else:
                    ring.discard("enabled")
            case _R.SET_OWNER:
                rings.clear()
    return {queue: ring for queue, ring in rings.items() if ring}
