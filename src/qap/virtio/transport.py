"""What every virtio transport gives to a driver (virtio 1.3, section 4)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntFlag

from qap.errors import QapError
from qap.qtest import Qtest


class Status(IntFlag):
    """The device status field (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class VirtioError(QapError):
    """The device did what its specification doesn't allow, or lacks what was asked for."""


@dataclass(frozen=True)
class QueueAddresses:
    """Where a virtqueue is in guest memory (2.6).

    Attributes:
        size: entries.
        desc, driver, device: addresses of the descriptor area, the driver area and the
            device area.
    """

    size: int
    desc: int
    driver: int
    device: int


class Transport(ABC):
    """A virtio device on its bus. Feature words are 64 bits wide.

    Attributes:
        qtest: the session it is driven through.
        legacy: it is driven through the legacy interface: 32 feature bits, no FEATURES_OK,
            fields in the guest's byte order, and each queue in one piece and of exactly
            `queue_max` entries (2.7.2).
    """

    qtest: Qtest
    legacy: bool = False

    @property
    @abstractmethod
    def device_type(self) -> int:
        """The device ID (5)."""

    @property
    @abstractmethod
    def device_features(self) -> int:
        """What the device offers."""

    @property
    @abstractmethod
    def driver_features(self) -> int:
        """What the driver wrote last."""

    @abstractmethod
    def set_driver_features(self, features: int) -> None:
        """Write what the driver accepts, offered or not."""

    @property
    @abstractmethod
    def status(self) -> Status:
        """The status field, as the device answers it."""

    @abstractmethod
    def set_status(self, status: Status) -> None:
        """Write the status field, whatever the device makes of it."""

    @abstractmethod
    def reset(self) -> None:
        """Reset the device and wait until it says that it is (2.4).

        Raises:
            TimeoutError: it doesn't say so.
        """

    @abstractmethod
    def config_read(self, offset: int, size: int) -> bytes:
        """A range of device configuration space (2.5), as the bytes lie there.

        Fields of 1, 2 and 4 bytes are read with an access of their size.
        """

    @abstractmethod
    def config_write(self, offset: int, data: bytes) -> None:
        """Write a range of device configuration space; see `config_read`."""

    @abstractmethod
    def queue_max(self, index: int) -> int:
        """The most entries that a queue can have; 0 if there is no such queue."""

    @abstractmethod
    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        """Tell the device where a queue is and enable it."""

    @abstractmethod
    def queue_enabled(self, index: int) -> bool:
        """Whether the device says that a queue is enabled."""

    @abstractmethod
    def notify(self, index: int) -> None:
        """An available buffer notification for a queue (2.9)."""

    @abstractmethod
    def isr_status(self) -> int:
        """The ISR status (4.1.4.5): bit 0 a queue, bit 1 the configuration; reading clears it."""
