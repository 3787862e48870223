"""Raw rings: descriptors of any content at any place, made available in any way."""

import struct
from dataclasses import dataclass, field, replace

from qap.machine.guest_memory import PAGE
from qap.measure.hostile.arena import Arena
from qap.measure.hostile.wire import Place
from qap.virtio.queue import ByteOrder

NEXT = 1
WRITE = 2
INDIRECT = 4
AVAIL = 1 << 7
USED = 1 << 15
DESC_SIZE = 16
U64 = 1 << 64


@dataclass(frozen=True)
class Raw:
    """A descriptor as it is written.

    Attributes:
        address, length, flags: taken modulo what fits.
        last: `next` in a split ring, the buffer id in a packed one.
    """

    address: int
    length: int
    flags: int = 0
    last: int = 0


@dataclass
class RawRing:
    """A queue's ring in an arena.

    Args:
        index: of the queue.
        size: entries that it has.
        place: where it is.
        room: entries that there is memory for.
    """

    arena: Arena
    index: int
    size: int
    place: Place
    room: int
    packed: bool = False
    order: ByteOrder = "<"
    position: int = field(init=False, default=0)
    heads: int = field(init=False, default=0)

    @classmethod
    def make(
        cls, arena: Arena, index: int, size: int, *, most: int, packed: bool, order: ByteOrder
    ) -> "RawRing":
        """A new, zeroed ring, whose areas suit a split ring and a packed one.

        Args:
            most: entries that it has room for, as a device may keep another size than it is told.
        """
        room = max(size, most)
        ahead = DESC_SIZE * room + 6 + 2 * room
        ahead += -ahead % PAGE
        whole = ahead + 6 + 8 * room
        desc = arena.take(whole, PAGE)
        arena.write(desc, bytes(whole))
        place = Place(size, desc, desc + DESC_SIZE * room, desc + ahead)
        ring = cls(arena, index, size, place, room, packed, order)
        arena.give(index, desc, whole)
        return ring

    def packed_bytes(self, raw: Raw) -> bytes:
        """A descriptor as bytes, after giving the device what it names."""
        address, length = raw.address % U64, raw.length & 0xFFFF_FFFF
        self.arena.give(self.index, address, length)
        words = (raw.last & 0xFFFF, raw.flags & 0xFFFF)
        if not self.packed:
            words = (words[1], words[0])
        return struct.pack(f"{self.order}QIHH", address, length, *words)

    def chained(self, raws: list[Raw]) -> list[Raw]:
        """The same descriptors as one well-formed chain from the ring's position on."""
        chain = []
        for number, raw in enumerate(raws):
            more = number + 1 < len(raws)
            last = self.position % self.size if self.packed else self.slot(number + 1)
            chain.append(replace(raw, flags=raw.flags | (NEXT if more else 0), last=last))
        return chain

    def slot(self, number: int) -> int:
        """The slot of the descriptor that is `number` behind the position."""
        return (self.position + number) % self.size

    def put(self, number: int, raw: Raw) -> None:
        """Write a descriptor behind the position, available in a packed ring."""
        at = self.position + number
        if self.packed:
            flags = USED if at // self.size % 2 else AVAIL
            raw = replace(raw, flags=raw.flags ^ flags)
        self.arena.write(self.place.desc + DESC_SIZE * (at % self.size), self.packed_bytes(raw))

    def post(self, chain: list[Raw], heads: int = 1) -> None:
        """Write a chain and make it available.

        Args:
            heads: by how many the driver's index goes up; a packed ring has none.
        """
        head = self.slot(0)
        for number in reversed(range(len(chain))):
            self.put(number, chain[number])
        self.position += len(chain)
        self.offer(head, heads)

    def offer(self, head: int, heads: int = 1) -> None:
        """Make the chain at `head` available in a split ring."""
        if self.packed:
            return
        u16 = struct.Struct(f"{self.order}H")
        slot = self.place.driver + 4 + 2 * (self.heads % self.size)
        self.arena.write(slot, u16.pack(head & 0xFFFF))
        self.heads = (self.heads + heads) & 0xFFFF
        self.arena.write(self.place.driver + 2, u16.pack(self.heads))

    def scribble(self, address: int, data: bytes) -> None:
        """Write into the ring, and give what its descriptors may name then."""
        self.arena.write(address, data)
        first = (address - self.place.desc) // DESC_SIZE
        for number in range(first, first + len(data) // DESC_SIZE + 2):
            if 0 <= number < self.size:
                at = self.place.desc + DESC_SIZE * number
                where, length = struct.unpack(f"{self.order}QI", self.arena.read(at, 12))
                self.arena.give(self.index, where, length)
