"""Packed virtqueues as the device serves them (virtio 1.3, section 2.8)."""

import struct

from qap.vhost_user.memory.access import MemoryAccess
from qap.vhost_user.ring.ring import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESC_SIZE,
    Chain,
    Descriptor,
    MalformedRing,
    Ring,
    RingLayout,
)

# 2.8.1 and 2.8.13: the two flags that follow the wrap counters, and offsets of fields.
DESC_F_AVAIL = 1 << 7
DESC_F_USED = 1 << 15
LENGTH_AT = 8
FLAGS_AT = 14

# 2.8.14: the event suppression structure is two words, off_wrap and flags.
EVENT_FLAGS_AT = 2
EVENT_FLAGS_DISABLE = 1
EVENT_FLAGS_DESC = 2
WRAP = 1 << 15


class Position:
    """An index in the ring with its wrap counter (2.8.1)."""

    def __init__(self, size: int, word: int) -> None:
        self._size = size
        self.index = word & ~WRAP
        self.wrap = bool(word & WRAP)

    @property
    def word(self) -> int:
        """The format of SET_VRING_BASE and off_wrap: bits 0 to 14 the index, bit 15 the counter."""
        return self.index | (WRAP if self.wrap else 0)

    def add(self, count: int) -> None:
        """Advance by `count` descriptors."""
        self.index += count
        if self.index >= self._size:
            self.index -= self._size
            self.wrap = not self.wrap


class PackedRing(Ring):
    """A packed virtqueue.

    Args:
        base: "Vring descriptor indices for packed virtqueues" of vhost-user.rst; the
            initial ones of virtio 1.3, 2.8.1 if None.
    """

    def __init__(
        self, layout: RingLayout, rings: MemoryAccess, buffers: MemoryAccess, base: int | None
    ) -> None:
        super().__init__(layout, rings, buffers)
        if base is None:
            base = WRAP | WRAP << 16
        if not 0 < layout.size <= 1 << 15:
            raise MalformedRing(f"a packed ring of {layout.size} entries (2.8.10.1)")
        self._u16 = struct.Struct(layout.order + "H")
        self._event = struct.Struct(layout.order + "HH")
        self._used = struct.Struct(layout.order + "IH")
        self._avail_at = Position(layout.size, base & 0xFFFF)
        self._used_at = Position(layout.size, base >> 16)
        if max(self._avail_at.index, self._used_at.index) >= layout.size:
            raise MalformedRing(f"base {base:#x} in a packed ring of {layout.size} entries")
        self._asked_at = -1
        self._used_since_call = 0

    @property
    def base(self) -> int:
        return self._avail_at.word | self._used_at.word << 16

    @property
    def used_position(self) -> int:
        return self._used_at.word

    def next_chain(self) -> Chain | None:
        layout = self.layout
        at = Position(layout.size, self._avail_at.word)
        taken: list[Descriptor] = []
        buffers: list[Descriptor] = []
        while len(taken) < layout.size:
            where = layout.desc + DESC_SIZE * at.index
            if not taken:
                (flags,) = self._u16.unpack(self.rings.read("desc", where + FLAGS_AT, 2))
                # 2.8.1: available if AVAIL is the wrap counter and USED is not.
                if flags & (DESC_F_AVAIL | DESC_F_USED) != (
                    DESC_F_AVAIL if at.wrap else DESC_F_USED
                ):
                    return None
            raw = self.rings.read("desc", where, DESC_SIZE)
            address, size, buffer_id, flags = self._desc.unpack(raw)
            descriptor = Descriptor(address, size, flags)
            taken.append(descriptor)
            if flags & DESC_F_INDIRECT:
                if flags & DESC_F_NEXT:
                    raise MalformedRing("an indirect descriptor with a next one (2.8.17)")
                buffers += self._in_table(self._indirect_table(descriptor))
            else:
                buffers.append(descriptor)
            if not flags & DESC_F_NEXT:
                return self._chain(buffer_id, taken, buffers)
            at.add(1)
        raise MalformedRing(f"a chain longer than the ring's {layout.size} descriptors")

    def _in_table(self, table: bytes) -> list[Descriptor]:
        """2.8.7: only the WRITE flag is valid; buffers are in the order of the table."""
        return [
            Descriptor(address, size, flags & DESC_F_WRITE)
            for address, size, _, flags in self._desc.iter_unpack(table)
        ]

    def advance(self, chain: Chain) -> None:
        self._avail_at.add(len(chain.taken))

    def use(self, used_id: int, length: int, descriptors: int) -> None:
        at = self._used_at
        where = self.layout.desc + DESC_SIZE * at.index
        flags = (DESC_F_AVAIL | DESC_F_USED if at.wrap else 0) | (DESC_F_WRITE if length else 0)
        self.rings.write("desc", where + LENGTH_AT, self._used.pack(length, used_id))
        # 2.8.6.1: flags are written last, as they make the descriptor used.
        self.rings.write("desc", where + FLAGS_AT, self._u16.pack(flags))
        at.add(descriptors)
        self._used_since_call += descriptors

    def ask_kick(self) -> bool:
        # 2.8.10; without EVENT_IDX the flags stay 0, which asks for every notification.
        word = self._avail_at.word
        if not self.layout.event_idx or self._asked_at == word:
            return False
        event = self._event.pack(word, EVENT_FLAGS_DESC)
        self.rings.write("device", self.layout.device, event)
        self._asked_at = word
        return True

    def wants_call(self) -> bool:
        used, self._used_since_call = self._used_since_call, 0
        if not used:
            return False
        where, flags = self._event.unpack(self.rings.read("driver", self.layout.driver, 4))
        if flags != EVENT_FLAGS_DESC or not self.layout.event_idx:
            return bool(flags != EVENT_FLAGS_DISABLE)
        # How far the descriptor that the driver asked for is behind the next used one.
        wanted = Position(self.layout.size, where)
        behind = self._used_at.index - wanted.index
        if self._used_at.wrap != wanted.wrap:
            behind += self.layout.size
        return 0 < behind <= used
