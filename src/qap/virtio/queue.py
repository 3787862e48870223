"""What split and packed virtqueues have in common (virtio 1.3, section 2.6)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qap.host.wait import poll_until
from qap.virtio.transport import QueueAddresses

ByteOrder = Literal["<", ">"]


@dataclass(frozen=True)
class Buffer:
    """A piece of guest memory that one descriptor describes.

    Attributes:
        address: as the device is to see it.
        size: in bytes.
        writable: by the device.
    """

    address: int
    size: int
    writable: bool = False


@dataclass(frozen=True)
class Used:
    """A buffer that the device has used: its id, and how many bytes the device wrote."""

    id: int
    length: int


class Queue(ABC):
    """A virtqueue in guest memory, seen from the driver.

    Attributes:
        index: of the queue in its device.
        size: entries.
        addresses: where its parts are, as the device is to see them.
    """

    index: int
    size: int
    addresses: QueueAddresses

    @abstractmethod
    def add(self, buffers: Sequence[Buffer]) -> int:
        """Make a chain of buffers available; returns the id it will be used under.

        Raises:
            VirtioError: the queue is full.
        """

    @abstractmethod
    def wants_notification(self) -> bool:
        """Whether the device asked to be told of what was added since the last call (2.7.10)."""

    @abstractmethod
    def take_used(self) -> Used | None:
        """The next chain that the device has used, or None; its descriptors are free again.

        Raises:
            VirtioError: the device used a chain that it was never given.
        """

    def wait_used(self, timeout: float) -> Used:
        """The next chain that the device has used, once it has.

        Args:
            timeout: in seconds.
        Raises:
            TimeoutError: it used none.
        """
        return poll_until(self.take_used, timeout, lambda: f"queue {self.index} to be served")
