"""Records of what a back-end received and what it did."""

import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from qap.host.errors import QapError
from qap.vhost_user import layout
from qap.vhost_user.chain_service import Served
from qap.vhost_user.memory.access import RawTouched, Touched
from qap.vhost_user.protocol import Message

T = TypeVar("T")


class Received(NamedTuple):
    """A message from the front-end.

    Attributes:
        request: its number, a FrontendRequest if known.
        payload: as it came, words in the host's byte order.
        fds: how many file descriptors came with it.
    """

    request: int
    payload: bytes
    fds: int

    @property
    def words(self) -> tuple[int, ...]:
        """Values of the payload's words, in the order of vhost-user.rst.

        Raises:
            ProtocolError: the message was malformed.
        """
        return layout.words(self.request, self.payload)


class RingError(QapError):
    """A chain could not be served; the ring is tried again at the next kick.

    Attributes:
        queue: index of its queue.
    """

    def __init__(self, queue: int, why: object) -> None:
        super().__init__(f"queue {queue}: {why}")
        self.queue = queue


class Records:
    """Lists that the back-end's thread appends to and other threads read.

    Attributes:
        touch: appends an access; without a lock, as it is called for each access.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._received: list[Received] = []
        self._served: list[Served] = []
        self._errors: list[RingError] = []
        self._touched: list[RawTouched] = []
        self.touch: Callable[[RawTouched], None] = self._touched.append

    @property
    def received(self) -> list[Received]:
        with self._news:
            return list(self._received)

    @property
    def served(self) -> list[Served]:
        with self._news:
            return list(self._served)

    @property
    def errors(self) -> list[RingError]:
        with self._news:
            return list(self._errors)

    @property
    def touched(self) -> list[Touched]:
        return [Touched(*access) for access in list(self._touched)]

    def add_received(self, message: Message) -> None:
        with self._news:
            self._received.append(Received(message.request, message.payload, len(message.fds)))
            self._news.notify_all()

    def add_served(self, served: Served) -> None:
        with self._news:
            self._served.append(served)
            self._news.notify_all()

    def add_error(self, error: RingError) -> None:
        with self._news:
            self._errors.append(error)
            self._news.notify_all()

    def wait(self, find: Callable[[], T | None], timeout: float) -> T | None:
        """Call `find` after each addition until it returns something else than None.

        Returns that, or None after `timeout` seconds.
        """
        with self._news:
            return self._news.wait_for(find, timeout)

    def forget(self) -> None:
        """Clear all lists."""
        with self._news:
            self._received.clear()
            self._served.clear()
            self._errors.clear()
            self._touched.clear()
