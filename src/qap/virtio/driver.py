"""Initialization of a device by a driver (virtio 1.3, 3.1.1), well-behaved or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qap.machine.guest_memory import GuestMemory
from qap.oracle.features import FeatureBit, bits, mask, names
from qap.oracle.status import Status
from qap.virtio.packed import PackedQueue, packed_areas
from qap.virtio.queue import Buffer, ByteOrder, Queue, Used
from qap.virtio.raw import RawPackedQueue, RawQueue, RawSplitQueue
from qap.virtio.split import SplitQueue, split_areas
from qap.virtio.transport import Transport, VirtioError

QUEUE_SIZE = 64
SERVED_S = 10.0
MODERN = mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM])


class FeaturesRefused(VirtioError):
    """The device did not keep FEATURES_OK (3.1.1 step 6).

    Attributes:
        offered, accepted: feature words.
    """

    def __init__(self, offered: int, accepted: int) -> None:
        left = ", ".join(names(bits(offered & ~accepted))) or "nothing"
        super().__init__(f"the device refused the features; offered but not accepted: {left}")
        self.offered = offered
        self.accepted = accepted


@dataclass(frozen=True)
class Behaviour:
    """How a driver negotiates; the default is a modern driver without extras.

    Attributes:
        supports: the features it accepts if they are offered.
        claims: the features it accepts even if they are not offered.
        sets_features_ok: whether it sets FEATURES_OK and checks that the bit stays set.
        obeys: whether it gives up and sets FAILED if the bit doesn't stay set.
    """

    supports: int = MODERN
    claims: int = 0
    sets_features_ok: bool = True
    obeys: bool = True

    def without(self, *unwanted: int) -> "Behaviour":
        """The same behaviour without support for these feature bits."""
        return replace(self, supports=self.supports & ~mask(unwanted))


class Driver:
    """A driver of one device.

    Call the methods in the specification's order: `negotiate`, `queue` for each queue, `start`.

    Attributes:
        offered, accepted: feature words, once negotiated.
    """

    def __init__(
        self, transport: Transport, memory: GuestMemory, behaviour: Behaviour | None = None
    ) -> None:
        self.transport = transport
        self.memory = memory
        self.behaviour = behaviour or Behaviour()
        self.offered = 0
        self.accepted = 0
        self._status = Status(0)

    def negotiate(self) -> Status:
        """Reset, and go as far as FEATURES_OK (steps 1 to 6); returns the status read back.

        Raises:
            FeaturesRefused: the device did not keep FEATURES_OK, and the driver obeys.
        """
        self.transport.reset()
        self._status = Status(0)
        self._add(Status.ACKNOWLEDGE)
        self._add(Status.DRIVER)
        self.offered = self.transport.device_features
        self.accepted = self.offered & self.behaviour.supports | self.behaviour.claims
        self.transport.set_driver_features(self.accepted)
        if not self.behaviour.sets_features_ok:
            return self.transport.status
        self._add(Status.FEATURES_OK)
        kept = self.transport.status
        if self.behaviour.obeys and Status.FEATURES_OK not in kept:
            self._add(Status.FAILED)
            raise FeaturesRefused(self.offered, self.accepted)
        return kept

    @property
    def order(self) -> ByteOrder:
        """The byte order of rings, config space and requests (2.5.3, 2.7.3).

        It is little-endian once VERSION_1 is accepted, and the guest's own otherwise.
        """
        if self.has(FeatureBit.VERSION_1):
            return "<"
        return ">" if self.transport.qtest.endianness() == "big" else "<"

    def queue(self, index: int, size: int = QUEUE_SIZE) -> Queue:
        """Set up a queue of at most `size` entries and enable it (step 7).

        On a legacy transport the queue always has the device's size.

        Raises:
            VirtioError: the device has no such queue.
        """
        entries = self._entries(index, size)
        options = {
            "indirect": self.has(FeatureBit.INDIRECT_DESC),
            "event_idx": self.has(FeatureBit.EVENT_IDX),
        }
        queue: Queue
        if self.has(FeatureBit.RING_PACKED):
            queue = PackedQueue(self.memory, index, entries, **options)
        else:
            legacy = self.transport.legacy
            queue = SplitQueue(
                self.memory, index, entries, order=self.order, legacy=legacy, **options
            )
        self.transport.enable_queue(index, queue.addresses)
        return queue

    def raw_queue(self, index: int, size: int = QUEUE_SIZE) -> RawQueue:
        """As `queue`, but the caller writes its descriptors and indices: `qap.virtio.raw`.

        It is packed if RING_PACKED was accepted.
        """
        entries = self._entries(index, size)
        queue: RawQueue
        if self.has(FeatureBit.RING_PACKED):
            queue = RawPackedQueue(self.memory, index, packed_areas(self.memory, entries))
        else:
            areas = split_areas(self.memory, entries, legacy=self.transport.legacy)
            queue = RawSplitQueue(self.memory, index, areas, self.order)
        self.transport.enable_queue(index, queue.addresses)
        return queue

    def _entries(self, index: int, size: int) -> int:
        most = self.transport.queue_max(index)
        if not most:
            raise VirtioError(f"the device has no queue {index}")
        return most if self.transport.legacy else min(size, most)

    def start(self) -> Status:
        """Set DRIVER_OK (step 8); returns the status read back."""
        self._add(Status.DRIVER_OK)
        return self.transport.status

    def has(self, bit: int) -> bool:
        """Whether a feature bit was accepted."""
        return bool(self.accepted >> bit & 1)

    def serve(self, queue: Queue, buffers: Sequence[Buffer], timeout: float = SERVED_S) -> Used:
        """Make a chain available and wait until the device has used it.

        Raises:
            TimeoutError: it was not used.
            VirtioError: the device used another chain.
        """
        head = queue.add(buffers)
        if queue.wants_notification():
            self.transport.notify(queue.index)
        used = queue.wait_used(timeout)
        if used.id != head:
            raise VirtioError(f"queue {queue.index}: chain {used.id} was used, not {head}")
        return used

    def _add(self, bit: Status) -> None:
        self._status |= bit
        self.transport.set_status(self._status)
