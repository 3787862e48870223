"""Rings whose bytes the caller chooses, right or wrong (virtio 1.3, sections 2.7 and 2.8).

`Driver.raw_queue` sets one up. Nothing that is written here is checked.
"""

import struct
from abc import ABC, abstractmethod
from typing import NamedTuple

from qap.host.wait import poll_until
from qap.machine.guest_memory import GuestMemory
from qap.virtio import packed, split
from qap.virtio.queue import ByteOrder, Used
from qap.virtio.transport import QueueAddresses

INDEX = 1 << 16


class Descriptor(NamedTuple):
    """A descriptor of either format, in a ring or in an indirect table.

    Attributes:
        address: as the device sees it.
        length: in bytes.
        flags: DESC_F_*; in a packed ring AVAIL and USED are among them.
        next: index of the next one; the buffer id in a packed ring.
    """

    address: int
    length: int
    flags: int = 0
    next: int = 0


class RawQueue(ABC):
    """A virtqueue in guest memory that the caller fills byte by byte.

    Args:
        index: of the queue in its device.
        addresses: of its three areas.

    Attributes:
        memory: for buffers and tables.
    """

    def __init__(self, memory: GuestMemory, index: int, addresses: QueueAddresses) -> None:
        self.memory = memory
        self.index = index
        self.addresses = addresses

    @property
    def size(self) -> int:
        """Entries."""
        return self.addresses.size

    def put(self, index: int, address: int, length: int, flags: int = 0, next: int = 0) -> None:
        """Write a descriptor; see `Descriptor`. The device isn't told of it before `offer`."""
        raw = self._pack(Descriptor(address, length, flags, next))
        self.memory.write(self.addresses.desc + 16 * index, raw)

    def get(self, index: int) -> Descriptor:
        """A descriptor as it is now."""
        return self._unpack(self.memory.read(self.addresses.desc + 16 * index, 16))

    def table(self, *descriptors: Descriptor) -> int:
        """The address of a new indirect table; its length is 16 for each descriptor."""
        return self.memory.put(b"".join(map(self._pack, descriptors)))

    @abstractmethod
    def offer(self, *indices: int) -> None:
        """Make descriptors available.

        In a split ring they are heads, put into the available ring one after another. In a
        packed ring each of them is marked, the first one last, so name all of a chain.
        """

    @abstractmethod
    def used(self) -> list[Used]:
        """What the device has used in the first lap of the ring."""

    def wait_used(self, timeout: float) -> Used:
        """Wait for the first buffer that the device uses.

        Args:
            timeout: in seconds.
        Raises:
            TimeoutError: it used none in time.
        """
        return poll_until(
            lambda: next(iter(self.used()), None),
            timeout,
            lambda: f"queue {self.index} to be served",
        )

    @abstractmethod
    def _pack(self, descriptor: Descriptor) -> bytes: ...

    @abstractmethod
    def _unpack(self, raw: bytes) -> Descriptor: ...


class RawSplitQueue(RawQueue):
    """A split virtqueue.

    Args:
        order: byte order of its fields; for a legacy device the guest's own (2.7.3).
    """

    def __init__(
        self, memory: GuestMemory, index: int, addresses: QueueAddresses, order: ByteOrder = "<"
    ) -> None:
        super().__init__(memory, index, addresses)
        self._desc = struct.Struct(order + split.DESC)
        self._used_elem = struct.Struct(order + split.USED_ELEM)
        self._u16 = struct.Struct(order + "H")

    def offer(self, *indices: int) -> None:
        at = self.avail_idx
        for number, head in enumerate(indices):
            self.set_head(at + number, head)
        self.avail_idx = at + len(indices)

    def set_head(self, slot: int, head: int) -> None:
        """Write an entry of the available ring, where `slot` counts on past its end."""
        self._write(self.addresses.driver + split.RING_HEAD + 2 * (slot % self.size), head)

    @property
    def avail_flags(self) -> int:
        """flags of the available ring (2.7.6)."""
        return self._read(self.addresses.driver)

    @avail_flags.setter
    def avail_flags(self, flags: int) -> None:
        self._write(self.addresses.driver, flags)

    @property
    def avail_idx(self) -> int:
        """idx of the available ring, modulo 65536."""
        return self._read(self.addresses.driver + 2)

    @avail_idx.setter
    def avail_idx(self, index: int) -> None:
        self._write(self.addresses.driver + 2, index % INDEX)

    @property
    def used_event(self) -> int:
        """used_event, behind the available ring (2.7.7)."""
        return self._read(self.addresses.driver + split.RING_HEAD + 2 * self.size)

    @used_event.setter
    def used_event(self, index: int) -> None:
        self._write(self.addresses.driver + split.RING_HEAD + 2 * self.size, index % INDEX)

    @property
    def used_flags(self) -> int:
        """The device's flags of the used ring (2.7.8)."""
        return self._read(self.addresses.device)

    @property
    def used_idx(self) -> int:
        """The device's idx of the used ring."""
        return self._read(self.addresses.device + 2)

    def used(self) -> list[Used]:
        count = min(self.used_idx, self.size)
        if not count:
            return []
        raw = self.memory.read(self.addresses.device + split.RING_HEAD, 8 * count)
        return [Used(*fields) for fields in self._used_elem.iter_unpack(raw)]

    def _read(self, address: int) -> int:
        (value,) = self._u16.unpack(self.memory.read(address, 2))
        return int(value)

    def _write(self, address: int, value: int) -> None:
        self.memory.write(address, self._u16.pack(value))

    def _pack(self, descriptor: Descriptor) -> bytes:
        return self._desc.pack(*descriptor)

    def _unpack(self, raw: bytes) -> Descriptor:
        return Descriptor(*self._desc.unpack(raw))


class RawPackedQueue(RawQueue):
    """A packed virtqueue.

    Attributes:
        wrap: the wrap counter for `offer`: true in the first lap, false in the second.
    """

    def __init__(self, memory: GuestMemory, index: int, addresses: QueueAddresses) -> None:
        super().__init__(memory, index, addresses)
        self.wrap = True

    def offer(self, *indices: int) -> None:
        mark = packed.DESC_F_AVAIL if self.wrap else packed.DESC_F_USED
        for index in reversed(indices):
            found = self.get(index)
            self.put(index, *found._replace(flags=found.flags & ~_MARKS | mark))

    @property
    def driver_event(self) -> tuple[int, int]:
        """Offset with wrap counter, and flags, of the driver's event suppression (2.8.14)."""
        where, flags = packed.EVENT.unpack(self.memory.read(self.addresses.driver, 4))
        return where, flags

    @driver_event.setter
    def driver_event(self, event: tuple[int, int]) -> None:
        self.memory.write(self.addresses.driver, packed.EVENT.pack(*event))

    def used(self) -> list[Used]:
        ring = self.memory.read(self.addresses.desc, 16 * self.size)
        descriptors = (self._unpack(ring[at : at + 16]) for at in range(0, len(ring), 16))
        return [Used(d.next, d.length) for d in descriptors if d.flags & _MARKS == _MARKS]

    def _pack(self, descriptor: Descriptor) -> bytes:
        address, length, flags, buffer_id = descriptor
        return packed.DESC.pack(address, length, buffer_id, flags)

    def _unpack(self, raw: bytes) -> Descriptor:
        address, length, buffer_id, flags = packed.DESC.unpack(raw)
        return Descriptor(address, length, flags, buffer_id)


_MARKS = packed.DESC_F_AVAIL | packed.DESC_F_USED
