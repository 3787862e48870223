"""Split virtqueues in guest memory (virtio 1.3, section 2.7)."""

import struct
from collections.abc import Sequence

from qap.machine.guest_memory import PAGE, GuestMemory
from qap.virtio.queue import Buffer, ByteOrder, Queue, Used
from qap.virtio.transport import QueueAddresses, VirtioError

# 2.7.5 and 2.7.8.
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
USED_F_NO_NOTIFY = 1
DESC = "QIHH"
USED_ELEM = "II"
RING_HEAD = 4


class SplitQueue(Queue):
    """A split virtqueue, zeroed, which the device has not been told of yet.

    Args:
        index: of the queue in its device.
        size: entries, a power of two (2.7).
        indirect: put each chain into a table of its own (INDIRECT_DESC, 2.7.5.3).
        event_idx: notify when `avail_event` asks for it (EVENT_IDX, 2.7.10).
        order: byte order of its fields; for a legacy device the guest's own (2.7.3).
        legacy: the contiguous layout for legacy transports (2.7.2).
    """

    def __init__(
        self,
        memory: GuestMemory,
        index: int,
        size: int,
        *,
        indirect: bool = False,
        event_idx: bool = False,
        order: ByteOrder = "<",
        legacy: bool = False,
    ) -> None:
        self.index = index
        self.size = size
        self._memory = memory
        self._indirect = indirect
        self._event_idx = event_idx
        self._desc = struct.Struct(order + DESC)
        self._used_elem = struct.Struct(order + USED_ELEM)
        self._u16 = struct.Struct(order + "H")
        self.addresses = split_areas(memory, size, legacy=legacy)
        self._driver = self.addresses.driver
        self._device = self.addresses.device
        self._free = list(reversed(range(size)))
        self._chains: dict[int, list[int]] = {}
        self._avail_idx = 0
        self._told_idx = 0
        self._used_idx = 0

    def add(self, buffers: Sequence[Buffer]) -> int:
        needed = 1 if self._indirect else len(buffers)
        if len(self._free) < needed:
            raise VirtioError(f"queue {self.index} has {len(self._free)} free descriptors")
        chain = [self._free.pop() for _ in range(needed)]
        if self._indirect:
            table = b"".join(self._descriptors(buffers, range(len(buffers))))
            inner = self._memory.put(table)
            chained = [self._desc.pack(inner, len(table), DESC_F_INDIRECT, 0)]
        else:
            chained = self._descriptors(buffers, chain)
        self._chains[chain[0]] = chain
        slot = self._driver + RING_HEAD + 2 * (self._avail_idx % self.size)
        self._avail_idx = (self._avail_idx + 1) % (1 << 16)
        desc = self.addresses.desc
        self._memory.write_all(
            [
                *((desc + 16 * at, raw) for at, raw in zip(chain, chained, strict=True)),
                (slot, self._u16.pack(chain[0])),
                (self._driver + 2, self._u16.pack(self._avail_idx)),
            ]
        )
        return chain[0]

    def _descriptors(self, buffers: Sequence[Buffer], chain: Sequence[int]) -> list[bytes]:
        raw = []
        for position, buffer in enumerate(buffers):
            last = position + 1 == len(buffers)
            flags = (0 if last else DESC_F_NEXT) | (DESC_F_WRITE if buffer.writable else 0)
            following = 0 if last else chain[position + 1]
            raw.append(self._desc.pack(buffer.address, buffer.size, flags, following))
        return raw

    def wants_notification(self) -> bool:
        old, self._told_idx = self._told_idx, self._avail_idx
        if not self._event_idx:
            return not self._word(self._device) & USED_F_NO_NOTIFY
        event = self._word(self._device + RING_HEAD + 8 * self.size)
        new = self._avail_idx
        return (new - event - 1) % (1 << 16) < (new - old) % (1 << 16)

    @property
    def used_idx(self) -> int:
        """The device's index, modulo 65536."""
        return self._word(self._device + 2)

    def _word(self, address: int) -> int:
        (value,) = self._u16.unpack(self._memory.read(address, 2))
        return int(value)

    def take_used(self) -> Used | None:
        if self.used_idx == self._used_idx:
            return None
        at = self._device + RING_HEAD + 8 * (self._used_idx % self.size)
        used = Used(*self._used_elem.unpack(self._memory.read(at, self._used_elem.size)))
        if used.id not in self._chains:
            raise VirtioError(f"queue {self.index}: chain {used.id} was used but not available")
        self._free += self._chains.pop(used.id)
        self._used_idx = (self._used_idx + 1) % (1 << 16)
        if self._event_idx:
            event = self._driver + RING_HEAD + 2 * self.size
            self._memory.write(event, self._u16.pack(self._used_idx))
        return used


def split_areas(memory: GuestMemory, size: int, *, legacy: bool = False) -> QueueAddresses:
    """Zeroed memory for a split virtqueue, in the contiguous layout if `legacy` (2.7.2)."""
    return _in_one_piece(memory, size) if legacy else _apart(memory, size)


def _apart(memory: GuestMemory, size: int) -> QueueAddresses:
    return QueueAddresses(
        size,
        desc=memory.take(16 * size, 16),
        driver=memory.take(6 + 2 * size, 2),
        device=memory.take(6 + 8 * size, 4),
    )


def _in_one_piece(memory: GuestMemory, size: int) -> QueueAddresses:
    """The legacy layout: the device area begins at the next page (2.7.2)."""
    ahead = 16 * size + 6 + 2 * size
    ahead += -ahead % PAGE
    desc = memory.take(ahead + 6 + 8 * size, PAGE)
    return QueueAddresses(size, desc, desc + 16 * size, desc + ahead)
