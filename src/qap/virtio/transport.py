"""The interface of all virtio transports (virtio 1.3, section 4)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.machine.qtest import Qtest
from qap.oracle.status import Status

RESET_S = 5.0
SETTLED_S = 5.0
# 2.7.2, 4.1.4.10 and 4.2.4: the unit of queue addresses on legacy transports.
LEGACY_PAGE = 4096


class VirtioError(QapError):
    """The device violates its specification or lacks what was requested."""


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
        """The page frame number, which describes the queue to a legacy transport (2.7.2).

        Raises:
            VirtioError: the queue does not begin at a page, is not contiguous as in 2.7.2, or
                its page frame number does not fit 32 bits.
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
        qtest: the QTest session with the machine.
        legacy: whether the legacy interface is used: 32 feature bits, no FEATURES_OK, fields
            in the guest's byte order, and contiguous queues of exactly `queue_max` entries
            (2.7.2).
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
        """The features that the device offers."""

    @property
    @abstractmethod
    def driver_features(self) -> int:
        """The features that the driver wrote last."""

    @abstractmethod
    def set_driver_features(self, features: int) -> None:
        """Write the features that the driver accepts, offered or not."""

    @abstractmethod
    def device_feature_word(self, index: int) -> int:
        """32 of the features that the device offers: bits 32 * index and up (4.1.4.3).

        A legacy transport has word 0 only.
        """

    @abstractmethod
    def set_driver_feature_word(self, index: int, word: int) -> None:
        """Write 32 of the features that the driver accepts, and no other word."""

    @staticmethod
    def legacy_word(features: int) -> int:
        """The features, checked to fit the 32 bits of a legacy transport.

        Raises:
            VirtioError: there are bits above 31.
        """
        if features >> 32:
            raise VirtioError(f"the legacy interface can't take the features {features:#x}")
        return features

    @property
    @abstractmethod
    def status(self) -> Status:
        """The status field as read from the device."""

    @abstractmethod
    def set_status(self, status: Status) -> None:
        """Write the status field; the device may ignore or change it."""

    def reset(self) -> None:
        """Reset the device and wait until its status is 0 (2.4).

        Raises:
            TimeoutError: the status stays set.
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
        """A consistent copy of a range of device configuration space (2.5).

        Fields of 1, 2 and 4 bytes are read with accesses of their size.
        """

    def settled(self, read: Callable[[], bytes]) -> bytes:
        """Call `read` until the configuration did not change meanwhile; returns its result.

        With a generation it reads until that stays the same (2.5.1), without one until two
        reads return the same (2.5.4).

        Raises:
            TimeoutError: the configuration keeps changing.
        """

        def once() -> bytes | None:
            before = self.config_generation
            config = read()
            same = read() == config if before is None else self.config_generation == before
            return config if same else None

        return poll_until(once, SETTLED_S, lambda: f"the configuration of {self} to stay the same")

    @abstractmethod
    def config_write(self, offset: int, data: bytes) -> None:
        """Write a range of device configuration space; see `config_read`."""

    @abstractmethod
    def queue_max(self, index: int) -> int:
        """The most entries that a queue can have; 0 if there is no such queue."""

    @abstractmethod
    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        """Tell the device the addresses of a queue and enable it."""

    @abstractmethod
    def queue_enabled(self, index: int) -> bool:
        """Whether the device says that a queue is enabled."""

    def queue_reset(self, index: int) -> None:
        """Reset one queue and wait until that is done (RING_RESET, 2.6.1).

        Raises:
            TimeoutError: the reset does not end.
            VirtioError: the queue is still enabled, or the transport can't reset a queue.
        """
        raise VirtioError(f"{self} can't reset a queue by itself")

    def await_queue_reset(self, index: int, ongoing: Callable[[], int]) -> None:
        """Wait until `ongoing` is 0 and check that the queue is off; raises as `queue_reset`."""
        poll_until(
            lambda: None if ongoing() else True, RESET_S, lambda: f"queue {index} to be reset"
        )
        if self.queue_enabled(index):
            raise VirtioError(f"{self} has reset queue {index} and left it enabled")

    @abstractmethod
    def notify(self, index: int) -> None:
        """Send an available buffer notification for a queue (2.9)."""

    @abstractmethod
    def isr_status(self) -> int:
        """Read and clear the ISR status (4.1.4.5): bit 0 for queues, bit 1 for configuration."""
