"""What a back-end does with the buffers of a chain: a device type's behaviour."""

from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

MARK = b"served by qap's vhost-user back-end; "


class Later(Enum):
    """The type of LATER."""

    LATER = auto()


LATER: Final = Later.LATER


class ChainService(Protocol):
    """What a device of some type makes of a chain.

    It runs in the back-end's thread, which answers no message meanwhile, and must leave
    the back-end's methods alone.
    """

    def __call__(self, queue: int, readable: bytes, room: int) -> bytes | Later | None:
        """Serve a chain.

        Args:
            queue: index of its queue.
            readable: contents of its readable buffers.
            room: bytes that its writable buffers hold.
        Returns:
            what to write into the writable buffers from the front, at most `room` bytes,
            or None to keep the chain and never use it, as a device does with a receive
            buffer for which nothing comes, or LATER to leave it where it is, and be asked
            again once a chain of another queue was served.
        """


class Served(NamedTuple):
    """A chain that was served.

    Attributes:
        queue: index of its queue.
        id: what the driver knows it by.
        readable: contents of its readable buffers.
        written: bytes written, or None if the chain was kept.
        room: bytes that its writable buffers hold.
    """

    queue: int
    id: int
    readable: bytes
    written: int | None
    room: int


def pattern(size: int) -> bytes:
    """What `fill` writes: `size` bytes that a driver can tell from zeroes and from chance."""
    return (MARK * (size // len(MARK) + 1))[:size]


def fill(queue: int, readable: bytes, room: int) -> bytes:
    """The Service of any device type: fills what it may write with `pattern`."""
    return pattern(room)
