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
    """A piece of guest memory for one descriptor.

    Attributes:
        address: as the device sees it.
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
        addresses: of its three areas, as the device sees them.
    """

    index: int
    size: int
    addresses: QueueAddresses

    @abstractmethod
    def add(self, buffers: Sequence[Buffer]) -> int:
        """Make a chain of buffers available; returns the id of its used entry.

        Raises:
            VirtioError: the queue is full.
        """

    @abstractmethod
    def wants_notification(self) -> bool:
        """Whether the device wants a notification for chains added since the last call (2.7.10)."""

    @abstractmethod
    def take_used(self) -> Used | None:
        """The next chain that the device has used, or None; its descriptors are free again.

        Raises:
            VirtioError: the device used a chain that was not available.
        """

    def wait_used(self, timeout: float) -> Used:
        """Wait for the next chain that the device uses.

        Args:
            timeout: in seconds.
        Raises:
            TimeoutError: it used none in time.
        """
        return poll_until(self.take_used, timeout, lambda: f"queue {self.index} to be served")
