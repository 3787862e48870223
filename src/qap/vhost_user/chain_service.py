"""What a back-end does with the buffers of a chain: a device type's behaviour."""

from enum import Enum, auto
from typing import Final, NamedTuple, Protocol, runtime_checkable

MARK = b"served by qap's vhost-user back-end; "


class Later(Enum):
    """The type of LATER and YIELD."""

    LATER = auto()
    YIELD = auto()


LATER: Final = Later.LATER
YIELD: Final = Later.YIELD


class At(NamedTuple):
    """A chain is left until a time.

    Attributes:
        when: in seconds, as time.monotonic() counts them.
    """

    when: float


class Ends(NamedTuple):
    """Bytes for the writable buffers of a chain; what is between the two stays as it is."""

    head: bytes
    tail: bytes


Answer = bytes | Ends | Later | At | None


class ChainService(Protocol):
    """Serves a chain of buffers as a device of some type does.

    It runs in the back-end's thread, which handles no message meanwhile, and must not call
    the back-end's methods.
    """

    def __call__(self, queue: int, readable: bytes, room: int) -> Answer:
        """Serve a chain.

        Args:
            queue: index of its queue.
            readable: contents of its readable buffers.
            room: bytes that its writable buffers hold.
        Returns:
            bytes for the writable buffers, or Ends, at most `room`; None to keep the chain and
            never use it, as a device does with a receive buffer if nothing arrives; LATER to
            leave the chain available, and be called again after a chain of another queue was
            served, or at Backend.wake; At(when) to be called again at that time, or earlier, too;
            YIELD to be called again after what waits in the other queues was.
        """


@runtime_checkable
class SessionService(ChainService, Protocol):
    """A ChainService of a crypto device, which keeps sessions."""

    def create(self, description: bytes) -> int:
        """Open a session.

        Args:
            description: of CREATE_CRYPTO_SESSION.
        Returns:
            its id, below zero if it is refused.
        """

    def close(self, session: int) -> None:
        """Close a session (CLOSE_CRYPTO_SESSION)."""


class Served(NamedTuple):
    """A chain that was served.

    Attributes:
        queue: index of its queue.
        id: the chain's id in the used ring.
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
    """The `size` bytes that `fill` writes; a driver can tell them from zeroes and random data."""
    return (MARK * (size // len(MARK) + 1))[:size]


def fill(queue: int, readable: bytes, room: int) -> bytes:
    """A ChainService for any device type: fills the writable buffers with `pattern`."""
    return pattern(room)
