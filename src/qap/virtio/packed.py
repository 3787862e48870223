"""Packed virtqueues in guest memory (virtio 1.3, section 2.8), always little-endian."""

import struct
from collections.abc import Sequence

from qap.machine.guest_memory import GuestMemory
from qap.virtio.queue import Buffer, Queue, Used
from qap.virtio.transport import QueueAddresses, VirtioError

# 2.8.13: flags of a descriptor; AVAIL and USED follow the wrap counters (2.8.1).
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
DESC_F_AVAIL = 1 << 7
DESC_F_USED = 1 << 15
DESC = struct.Struct("<QIHH")

# 2.8.14: the event suppression structure.
EVENT = struct.Struct("<HH")
EVENT_FLAGS_DISABLE = 1
EVENT_FLAGS_DESC = 2
EVENT_WRAP = 1 << 15


class PackedQueue(Queue):
    """A packed virtqueue, zeroed, which the device has not been told of yet.

    Args:
        index: of the queue in its device.
        size: entries, at most 2**15 (2.8.10.1).
        indirect: put each chain into a table of its own (INDIRECT_DESC, 2.8.7).
        event_idx: notify at the descriptor that the device names (EVENT_IDX, 2.8.10).
    """

    def __init__(
        self,
        memory: GuestMemory,
        index: int,
        size: int,
        *,
        indirect: bool = False,
        event_idx: bool = False,
    ) -> None:
        self.index = index
        self.size = size
        self._memory = memory
        self._indirect = indirect
        self._event_idx = event_idx
        self.addresses = packed_areas(memory, size)
        self._desc = self.addresses.desc
        self._ids = list(reversed(range(size)))
        self._lengths: dict[int, int] = {}
        self._free = size
        # Positions count descriptors since the start; the parity of the lap is the wrap counter.
        self._avail = 0
        self._told = 0
        self._used = 0

    def add(self, buffers: Sequence[Buffer]) -> int:
        needed = 1 if self._indirect else len(buffers)
        if self._free < needed:
            raise VirtioError(f"queue {self.index} has {self._free} free descriptors")
        buffer_id = self._ids.pop()
        self._lengths[buffer_id] = needed
        self._free -= needed
        if self._indirect:
            table = b"".join(
                DESC.pack(buffer.address, buffer.size, 0, DESC_F_WRITE if buffer.writable else 0)
                for buffer in buffers
            )
            pieces = [(self._memory.put(table), len(table), DESC_F_INDIRECT)]
        else:
            pieces = [
                (buffer.address, buffer.size, DESC_F_WRITE if buffer.writable else 0)
                for buffer in buffers
            ]
        writes = []
        for number, (address, size, flags) in enumerate(pieces):
            at = self._avail + number
            more = DESC_F_NEXT if number + 1 < needed else 0
            raw = DESC.pack(address, size, buffer_id, flags | more | self._available(at))
            writes.append((self._desc + 16 * (at % self.size), raw))
        # 2.8.6: the first descriptor becomes available last.
        self._memory.write_all([*writes[1:], writes[0]])
        self._avail += needed
        return buffer_id

    def _available(self, position: int) -> int:
        return DESC_F_USED if self._wraps(position) else DESC_F_AVAIL

    def _wraps(self, position: int) -> int:
        return position // self.size % 2

    def wants_notification(self) -> bool:
        old, self._told = self._told, self._avail
        where, flags = EVENT.unpack(self._memory.read(self.addresses.device, EVENT.size))
        if flags != EVENT_FLAGS_DESC or not self._event_idx:
            return bool(flags != EVENT_FLAGS_DISABLE)
        wanted = where & ~EVENT_WRAP
        # The position at or after `old` that `where` and its wrap counter name.
        lap = old // self.size
        if (where & EVENT_WRAP == 0) != bool(self._wraps(old)):
            lap -= 1 if wanted >= old % self.size else -1
        return bool(old <= lap * self.size + wanted < self._avail)

    def take_used(self) -> Used | None:
        at = self._desc + 16 * (self._used % self.size)
        _, length, buffer_id, flags = DESC.unpack(self._memory.read(at, DESC.size))
        used = DESC_F_AVAIL | DESC_F_USED if not self._wraps(self._used) else 0
        if flags & (DESC_F_AVAIL | DESC_F_USED) != used:
            return None
        if buffer_id not in self._lengths:
            raise VirtioError(f"queue {self.index}: buffer {buffer_id} was used but not available")
        skipped = self._lengths.pop(buffer_id)
        self._used += skipped
        self._free += skipped
        self._ids.append(buffer_id)
        return Used(buffer_id, length)


def packed_areas(memory: GuestMemory, size: int) -> QueueAddresses:
    """Zeroed memory for a packed virtqueue."""
    return QueueAddresses(
        size,
        desc=memory.take(16 * size, 16),
        driver=memory.take(EVENT.size, 4),
        device=memory.take(EVENT.size, 4),
    )
