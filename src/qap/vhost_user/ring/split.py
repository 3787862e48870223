"""Split virtqueues as the device serves them (virtio 1.3, section 2.7)."""

import struct
from collections.abc import Iterator
from typing import Literal

from qap.vhost_user.memory.access import MemoryAccess
from qap.vhost_user.ring.ring import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_SIZE,
    Chain,
    Descriptor,
    MalformedRing,
    Ring,
    RingLayout,
)

# 2.7.6 and 2.7.8: flags and idx come first in the driver area and in the device area.
IDX = 2
ENTRIES = 4
USED_SIZE = 8
AVAIL_F_NO_INTERRUPT = 1
WORD = 1 << 16


class SplitRing(Ring):
    """A split virtqueue.

    Args:
        base: the next index of the available ring, modulo 65536; 0 if None.
    """

    def __init__(
        self, layout: RingLayout, rings: MemoryAccess, buffers: MemoryAccess, base: int | None
    ) -> None:
        super().__init__(layout, rings, buffers)
        if layout.size & (layout.size - 1) or not 0 < layout.size <= 1 << 15:
            raise MalformedRing(f"a split ring of {layout.size} entries (2.7)")
        self._u16 = struct.Struct(layout.order + "H")
        self._used = struct.Struct(layout.order + "II")
        self._next_avail = (base or 0) % WORD
        self._seen_avail = self._next_avail
        self._asked_at = -1
        self._used_idx = self._word("device", layout.device + IDX)
        self._told_used = self._used_idx

    @property
    def base(self) -> int:
        return self._next_avail

    @property
    def used_position(self) -> int:
        return self._used_idx

    def next_chain(self) -> Chain | None:
        layout = self.layout
        if self._seen_avail == self._next_avail:
            seen = self._word("driver", layout.driver + IDX)
            if (seen - self._next_avail) % WORD > layout.size:
                raise MalformedRing(
                    f"{(seen - self._next_avail) % WORD} chains are available in a ring of "
                    f"{layout.size}"
                )
            self._seen_avail = seen
            if seen == self._next_avail:
                return None
        slot = layout.driver + ENTRIES + 2 * (self._next_avail % layout.size)
        head = self._word("driver", slot)
        taken = list(self._walk(head))
        last = taken[-1]
        if not last.flags & DESC_F_INDIRECT:
            return self._chain(head, taken, taken)
        # 2.7.5.3.2: descriptors of buffers may precede that of the table.
        inner = self._walk_table(self._indirect_table(last))
        return self._chain(head, taken, [*taken[:-1], *inner])

    def _walk(self, at: int) -> Iterator[Descriptor]:
        layout = self.layout
        for _ in range(layout.size):
            if at >= layout.size:
                raise MalformedRing(f"descriptor {at} of a table of {layout.size}")
            raw = self.rings.read("desc", layout.desc + DESC_SIZE * at, DESC_SIZE)
            address, size, flags, at = self._desc.unpack(raw)
            if flags & DESC_F_INDIRECT and flags & DESC_F_NEXT:
                raise MalformedRing("an indirect descriptor with a next one (2.7.5.3.1)")
            yield Descriptor(address, size, flags)
            if not flags & DESC_F_NEXT:
                return
        raise MalformedRing(f"a chain longer than the ring's {layout.size} descriptors")

    def _walk_table(self, table: bytes) -> Iterator[Descriptor]:
        entries = len(table) // DESC_SIZE
        at = 0
        for _ in range(entries):
            if at >= entries:
                raise MalformedRing(f"descriptor {at} of an indirect table of {entries}")
            address, size, flags, at = self._desc.unpack_from(table, DESC_SIZE * at)
            if flags & DESC_F_INDIRECT:
                raise MalformedRing("an indirect table in an indirect table (2.7.5.3.1)")
            yield Descriptor(address, size, flags)
            if not flags & DESC_F_NEXT:
                return
        raise MalformedRing(f"a chain longer than its indirect table of {entries}")

    def advance(self, chain: Chain) -> None:
        self._next_avail = (self._next_avail + 1) % WORD

    def use(self, used_id: int, length: int, descriptors: int) -> None:
        layout = self.layout
        slot = layout.device + ENTRIES + USED_SIZE * (self._used_idx % layout.size)
        self.rings.write("device", slot, self._used.pack(used_id, length))
        after = (self._used_idx + 1) % WORD
        self.rings.write("device", layout.device + IDX, self._u16.pack(after))
        self._used_idx = after

    def ask_kick(self) -> bool:
        # 2.7.10: avail_event; without it the flags stay 0, which asks for every notification.
        if not self.layout.event_idx or self._asked_at == self._next_avail:
            return False
        where = self.layout.device + ENTRIES + USED_SIZE * self.layout.size
        self.rings.write("device", where, self._u16.pack(self._next_avail))
        self._asked_at = self._next_avail
        return True

    def wants_call(self) -> bool:
        layout = self.layout
        old, self._told_used = self._told_used, self._used_idx
        if old == self._used_idx:
            return False
        if not layout.event_idx:
            return not self._word("driver", layout.driver) & AVAIL_F_NO_INTERRUPT
        event = self._word("driver", layout.driver + ENTRIES + 2 * layout.size)
        return (self._used_idx - event - 1) % WORD < (self._used_idx - old) % WORD

    def _word(self, what: Literal["driver", "device"], address: int) -> int:
        (value,) = self._u16.unpack(self.rings.read(what, address, 2))
        return int(value)
