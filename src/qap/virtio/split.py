"""Split virtqueues in guest memory (virtio 1.3, section 2.7), little-endian."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from qap import qtest_command as command
from qap.virtio.memory import GuestMemory
from qap.virtio.poll import poll_until
from qap.virtio.transport import QueueAddresses, VirtioError

# 2.7.5 and 2.7.8.
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
USED_F_NO_NOTIFY = 1
DESC = struct.Struct("<QIHH")
USED_ELEM = struct.Struct("<II")
RING_HEAD = 4


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
    """An entry of the used ring: the chain's head and how many bytes the device wrote."""

    id: int
    length: int


class SplitQueue:
    """A split virtqueue, zeroed, not yet known to the device.

    Args:
        index: of the queue in its device.
        size: entries, a power of two (2.7).
        indirect: put each chain into a table of its own (INDIRECT_DESC, 2.7.5.3).
        event_idx: ask `avail_event` when to notify (EVENT_IDX, 2.7.10).
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
        self._qtest = memory.qtest
        self._indirect = indirect
        self._event_idx = event_idx
        self.addresses = QueueAddresses(
            size,
            desc=memory.take(16 * size, 16),
            driver=memory.take(6 + 2 * size, 2),
            device=memory.take(6 + 8 * size, 4),
        )
        self._free = list(reversed(range(size)))
        self._chains: dict[int, list[int]] = {}
        self._avail_idx = 0
        self._told_idx = 0
        self._used_idx = 0

    def add(self, buffers: Sequence[Buffer]) -> int:
        """Make a chain of buffers available; returns its head.

        Raises:
            VirtioError: the queue is full.
        """
        table = self.addresses.desc
        needed = 1 if self._indirect else len(buffers)
        if len(self._free) < needed:
            raise VirtioError(f"queue {self.index} has {len(self._free)} free descriptors")
        chain = [self._free.pop() for _ in range(needed)]
        if self._indirect:
            inner = self._memory.put(_descriptors(buffers, list(range(len(buffers))))[1])
            chained = [DESC.pack(inner, 16 * len(buffers), DESC_F_INDIRECT, 0)]
        else:
            chained = _descriptors(buffers, chain)[0]
        self._chains[chain[0]] = chain
        slot = self.addresses.driver + RING_HEAD + 2 * (self._avail_idx % self.size)
        self._avail_idx = (self._avail_idx + 1) % (1 << 16)
        self._qtest.run_all(
            [
                *(
                    command.write(table + 16 * at, raw)
                    for at, raw in zip(chain, chained, strict=True)
                ),
                command.write(slot, struct.pack("<H", chain[0])),
                command.write(self.addresses.driver + 2, struct.pack("<H", self._avail_idx)),
            ]
        )
        return chain[0]

    def wants_notification(self) -> bool:
        """Whether the device asked to be told of what was added since the last call (2.7.10)."""
        old, self._told_idx = self._told_idx, self._avail_idx
        if not self._event_idx:
            return not self._word(self.addresses.device) & USED_F_NO_NOTIFY
        event = self._word(self.addresses.device + RING_HEAD + 8 * self.size)
        new = self._avail_idx
        return (new - event - 1) % (1 << 16) < (new - old) % (1 << 16)

    @property
    def used_idx(self) -> int:
        """The device's index, modulo 65536."""
        return self._word(self.addresses.device + 2)

    def _word(self, address: int) -> int:
        (value,) = struct.unpack("<H", self._qtest.read(address, 2))
        return int(value)

    def take_used(self) -> Used | None:
        """The next chain that the device has used, or None; its descriptors are free again.

        Raises:
            VirtioError: the device used a chain that it was never given.
        """
        if self.used_idx == self._used_idx:
            return None
        at = self.addresses.device + RING_HEAD + 8 * (self._used_idx % self.size)
        used = Used(*USED_ELEM.unpack(self._qtest.read(at, USED_ELEM.size)))
        if used.id not in self._chains:
            raise VirtioError(f"queue {self.index}: chain {used.id} was used but not available")
        self._free += self._chains.pop(used.id)
        self._used_idx = (self._used_idx + 1) % (1 << 16)
        if self._event_idx:
            event = self.addresses.driver + RING_HEAD + 2 * self.size
            self._qtest.write(event, struct.pack("<H", self._used_idx))
        return used

    def wait_used(self, timeout: float) -> Used:
        """The next chain that the device has used, once it has.

        Args:
            timeout: in seconds.
        Raises:
            TimeoutError: it used none.
        """
        return poll_until(
            self.take_used,
            timeout,
            lambda: f"queue {self.index} to be served (used_idx stays {self._used_idx})",
        )


def _descriptors(buffers: Sequence[Buffer], chain: Sequence[int]) -> tuple[list[bytes], bytes]:
    raw = []
    for position, buffer in enumerate(buffers):
        last = position + 1 == len(buffers)
        flags = (0 if last else DESC_F_NEXT) | (DESC_F_WRITE if buffer.writable else 0)
        raw.append(
            DESC.pack(buffer.address, buffer.size, flags, 0 if last else chain[position + 1])
        )
    return raw, b"".join(raw)
