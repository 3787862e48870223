"""What every virtio transport gives to a driver (virtio 1.3, section 4)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.machine.qtest import Qtest
from qap.oracle.status import Status

RESET_S = 5.0
SETTLED_S = 5.0
# 2.7.2, 4.1.4.10 and 4.2.4: the unit in which a legacy transport is told of a queue.
LEGACY_PAGE = 4096


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

    def page_frame(self) -> int:
        """The page frame number that tells a legacy transport all of this (2.7.2).

        Raises:
            VirtioError: the queue does not begin with a page, is not in one piece, or is too
                far up for 32 bits.
        """
        available_end = self.desc + 16 * self.size + 6 + 2 * self.size
        in_one_piece = (
            self.driver == self.desc + 16 * self.size
            and self.device == available_end + -available_end % LEGACY_PAGE
        )
        frame, rest = divmod(self.desc, LEGACY_PAGE)
        if rest or not 0 < frame < 1 << 32 or not in_one_piece:
            raise VirtioError(
                f"a queue of {self.size} entries at {self.desc:#x}, {self.driver:#x} and "
                f"{self.device:#x} does not fit the legacy layout"
            )
        return frame


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

    @staticmethod
    def legacy_word(features: int) -> int:
        """The features as a legacy transport can be told of them.

        Raises:
            VirtioError: there are some above bit 31.
        """
        if features >> 32:
            raise VirtioError(f"the legacy interface can't take the features {features:#x}")
        return features

    @property
    @abstractmethod
    def status(self) -> Status:
        """The status field, as the device answers it."""

    @abstractmethod
    def set_status(self, status: Status) -> None:
        """Write the status field, whatever the device makes of it."""

    def reset(self) -> None:
        """Reset the device and wait until it says that it is (2.4).

        Raises:
            TimeoutError: it doesn't say so.
        """
        self.set_status(Status(0))
        poll_until(
            lambda: True if not self.status else None, RESET_S, lambda: f"{self} to be reset"
        )

    @property
    def config_generation(self) -> int | None:
        """A count that changes with the configuration (2.5); None if the transport has none."""
        return None

    @abstractmethod
    def config_read(self, offset: int, size: int) -> bytes:
        """A range of device configuration space (2.5), as the bytes lie there at one time.

        Fields of 1, 2 and 4 bytes are read with an access of their size.
        """

    def settled(self, read: Callable[[], bytes]) -> bytes:
        """What `read` finds in configuration space that did not change meanwhile.

        It reads again while the generation changes (2.5.1), or without a generation until
        two reads find the same (2.5.4).

        Raises:
            TimeoutError: the configuration keeps changing.
        """

        def once() -> bytes | None:
            before = self.config_generation
            found = read()
            same = read() == found if before is None else self.config_generation == before
            return found if same else None

        return poll_until(once, SETTLED_S, lambda: f"the configuration of {self} to stay the same")

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

    def queue_reset(self, index: int) -> None:
        """Reset one queue and wait until the device says that it is (RING_RESET, 2.6.1).

        Raises:
            TimeoutError: it doesn't say so.
            VirtioError: it left the queue enabled, or the transport knows no such thing.
        """
        raise VirtioError(f"{self} can't reset a queue by itself")

    def await_queue_reset(self, index: int, ongoing: Callable[[], int]) -> None:
        """Wait until `ongoing` is 0, and see that the queue is off; raises as `queue_reset`."""
        poll_until(
            lambda: None if ongoing() else True, RESET_S, lambda: f"queue {index} to be reset"
        )
        if self.queue_enabled(index):
            raise VirtioError(f"{self} has reset queue {index} and left it enabled")

    @abstractmethod
    def notify(self, index: int) -> None:
        """An available buffer notification for a queue (2.9)."""

    @abstractmethod
    def isr_status(self) -> int:
        """Take what interrupts are pending for (4.1.4.5): bit 0 a queue, bit 1 the configuration.

        They are pending no more afterwards.
        """
