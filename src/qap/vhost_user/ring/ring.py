"""What split and packed virtqueues have in common, seen from the device (virtio 1.3, 2.6)."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qap.vhost_user.memory.access import MemoryAccess

RingByteOrder = Literal["<", ">"]

# 2.7.5 and 2.8.13: the same in both.
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
DESC_SIZE = 16


class MalformedRing(Exception):
    """The driver made a ring that the specification doesn't allow; str() says what."""


class Descriptor(NamedTuple):
    """A descriptor: `address` is the driver's, `size` in bytes, `flags` are as they came."""

    address: int
    size: int
    flags: int


class Chain(NamedTuple):
    """Buffers that were made available together.

    Attributes:
        id: what they are used under: a split ring's head, a packed ring's buffer id.
        taken: the ring's own descriptors, in order.
        readable, writable: the buffers, in order, those of indirect tables among them.
    """

    id: int
    taken: list[Descriptor]
    readable: list[Descriptor]
    writable: list[Descriptor]

    @property
    def room(self) -> int:
        """Bytes that the device may write."""
        return sum(one.size for one in self.writable)


@dataclass(frozen=True)
class RingLayout:
    """What SET_VRING_NUM, SET_VRING_ADDR and the acknowledged features say of a ring.

    Attributes:
        size: entries.
        desc, driver, device: addresses of its three areas.
        order: of the bytes in its fields.
        indirect: INDIRECT_DESC was acknowledged.
        event_idx: EVENT_IDX was.
    """

    size: int
    desc: int
    driver: int
    device: int
    order: RingByteOrder = "<"
    indirect: bool = False
    event_idx: bool = False


class Ring(ABC):
    """A started ring. Any method raises what its accesses raise.

    Args:
        layout: where and how large it is.
        rings: way to the three areas.
        buffers: way to what descriptors point to.
    """

    def __init__(self, layout: RingLayout, rings: MemoryAccess, buffers: MemoryAccess) -> None:
        self.layout = layout
        self.rings = rings
        self.buffers = buffers
        # A descriptor: its last two words are flags and next in a split ring (2.7.5), id
        # and flags in a packed one (2.8.13).
        self._desc = struct.Struct(layout.order + "QIHH")

    @property
    @abstractmethod
    def base(self) -> int:
        """Where to go on, as GET_VRING_BASE answers it."""

    @property
    @abstractmethod
    def used_position(self) -> int:
        """Where the next used entry goes: a split ring's used idx, a packed ring's index
        and wrap counter."""

    @abstractmethod
    def next_chain(self) -> Chain | None:
        """The next available chain, which stays the next one until `advance`.

        Raises:
            MalformedRing: what is available is no chain.
        """

    @abstractmethod
    def advance(self, chain: Chain) -> None:
        """Go on to the one after this chain, which `next_chain` gave."""

    @abstractmethod
    def use(self, used_id: int, length: int, descriptors: int) -> None:
        """Write a used entry and let the driver see it.

        Args:
            used_id: the chain's, if the device is well-behaved.
            length: bytes written to it.
            descriptors: how many the chain took.
        """

    @abstractmethod
    def ask_kick(self) -> bool:
        """Have the driver notify when it makes the next chain available.

        Returns whether it had to be told, and may have done so before it knew.
        """

    @abstractmethod
    def wants_call(self) -> bool:
        """Whether the driver wants to hear of what was used since the last call."""

    def _chain(
        self, chain_id: int, taken: list[Descriptor], buffers: Iterable[Descriptor]
    ) -> Chain:
        """A chain of buffers, of which the readable ones come first (2.7.4.2, 2.8.17)."""
        chain = Chain(chain_id, taken, [], [])
        for one in buffers:
            if one.flags & DESC_F_WRITE:
                chain.writable.append(one)
            elif chain.writable:
                raise MalformedRing(f"chain {chain_id} has a readable buffer after a writable one")
            else:
                chain.readable.append(one)
        return chain

    def _indirect_table(self, one: Descriptor) -> bytes:
        """The raw table that an indirect descriptor points to (2.7.5.3, 2.8.7)."""
        if not self.layout.indirect:
            raise MalformedRing("an indirect descriptor, and INDIRECT_DESC was not acknowledged")
        if not one.size or one.size % DESC_SIZE:
            raise MalformedRing(f"an indirect table of {one.size} bytes")
        return self.buffers.read("indirect", one.address, one.size)
