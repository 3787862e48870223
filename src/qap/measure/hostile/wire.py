"""A transport's registers as a hostile driver writes them: any value, in any order."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from qap.machine.qtest_command import QtestCommand
from qap.virtio.transport import Transport

Say = Callable[[str], None]


class Place(NamedTuple):
    """Where a driver tells the device that a queue is, and how large."""

    size: int
    desc: int
    driver: int
    device: int


@dataclass
class Wire(ABC):
    """Raw access to a device.

    Writes are sent together by `flush`; nothing waits for an answer before.

    Args:
        say: notes what is done.

    Attributes:
        odd: a write said something of addresses that the driver can't follow.
    """

    transport: Transport
    say: Say
    odd: bool = field(init=False, default=False)
    _queued: list[QtestCommand[None] | QtestCommand[int]] = field(init=False, default_factory=list)

    def flush(self) -> None:
        """Send what is queued."""
        queued, self._queued = self._queued, []
        if queued:
            self.transport.qtest.run_all(queued)

    def _do(self, *commands: QtestCommand[None] | QtestCommand[int]) -> None:
        self._queued += commands

    def forget(self) -> None:
        """Forget what a reset has taken back, such as the queues' addresses."""
        self.odd = False

    @abstractmethod
    def features(self, word: int, value: int) -> None:
        """Write 32 of the driver's feature bits."""

    @abstractmethod
    def status(self, value: int) -> None:
        """Write the device status, 8 bits."""

    @abstractmethod
    def place(self, queue: int, place: Place) -> None:
        """Say where a queue is, without enabling it where that is another step."""

    @abstractmethod
    def size(self, queue: int, size: int) -> None:
        """Write the queue's size alone, where there is a register for it."""

    @abstractmethod
    def ready(self, queue: int, value: int) -> None:
        """Enable the queue, or write something else there."""

    def reset_queue(self, queue: int) -> bool:
        """Reset one queue; returns whether it is said to be reset."""
        return False

    @abstractmethod
    def notify(self, queue: int) -> None:
        """Notify the device of a queue, of which there may be none."""

    @abstractmethod
    def config_write(self, offset: int, data: bytes) -> None:
        """Write device configuration, at any offset."""

    @abstractmethod
    def config_read(self, offset: int, size: int) -> None:
        """Read device configuration, at any offset."""

    @abstractmethod
    def stray(self, random: Random) -> None:
        """Access any register with any value."""
