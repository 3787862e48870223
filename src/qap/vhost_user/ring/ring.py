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
    """A descriptor: `address` as the driver wrote it, `size` in bytes, `flags` unchanged."""

    address: int
    size: int
    flags: int


class Chain(NamedTuple):
    """Buffers that were made available together.

    Attributes:
        id: id for the used ring: a split ring's head, a packed ring's buffer id.
        taken: the descriptors in the ring itself, in order.
        readable, writable: the buffers, in order, with those of indirect tables.
    """

    id: int
    taken: list[Descriptor]
    readable: list[Descriptor]
    writable: list[Descriptor]

    @property
    def room(self) -> int:
        """Bytes that the device may write."""
        return sum(buffer.size for buffer in self.writable)


@dataclass(frozen=True)
class RingLayout:
    """A ring as set up by SET_VRING_NUM, SET_VRING_ADDR and the acknowledged features.

    Attributes:
        size: entries.
        desc, driver, device: addresses of its three areas.
        order: of the bytes in its fields.
        indirect: INDIRECT_DESC was acknowledged.
        event_idx: EVENT_IDX was acknowledged.
    """

    size: int
    desc: int
    driver: int
    device: int
    order: RingByteOrder = "<"
    indirect: bool = False
    event_idx: bool = False


class Ring(ABC):
    """A started ring. Methods also raise what memory accesses raise.

    Args:
        layout: where and how large it is.
        rings: access to the three areas.
        buffers: access to what descriptors point to.
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
        """The next available entry, as the answer to GET_VRING_BASE."""

    @property
    @abstractmethod
    def used_position(self) -> int:
        """Where the next used entry goes: a split ring's used idx, a packed ring's index
        and wrap counter."""

    @abstractmethod
    def next_chain(self) -> Chain | None:
        """The next available chain, which stays the next one until `advance`.

        Raises:
            MalformedRing: the available chain is malformed.
        """

    @abstractmethod
    def advance(self, chain: Chain) -> None:
        """Skip this chain, which `next_chain` returned."""

    @abstractmethod
    def use(self, used_id: int, length: int, descriptors: int) -> None:
        """Write a used entry and let the driver see it.

        Args:
            used_id: the chain's id, unless the device misbehaves.
            length: bytes written to the chain.
            descriptors: number of ring descriptors in the chain.
        """

    @abstractmethod
    def ask_kick(self) -> bool:
        """Ask the driver for a notification when the next chain becomes available.

        Returns whether the ring had to be written for that. If so, look for a chain again: the
        driver may have added one before it saw the change.
        """

    @abstractmethod
    def wants_call(self) -> bool:
        """Whether the driver wants a call for what was used since the last one."""

    def _chain(
        self, chain_id: int, taken: list[Descriptor], buffers: Iterable[Descriptor]
    ) -> Chain:
        """A chain of buffers, of which the readable ones come first (2.7.4.2, 2.8.17)."""
        chain = Chain(chain_id, taken, [], [])
        for buffer in buffers:
            if buffer.flags & DESC_F_WRITE:
                chain.writable.append(buffer)
            elif chain.writable:
                raise MalformedRing(f"chain {chain_id} has a readable buffer after a writable one")
            else:
                chain.readable.append(buffer)
        return chain

    def _indirect_table(self, descriptor: Descriptor) -> bytes:
        """The raw table that an indirect descriptor points to (2.7.5.3, 2.8.7)."""
        if not self.layout.indirect:
            raise MalformedRing("an indirect descriptor, and INDIRECT_DESC was not acknowledged")
        if not descriptor.size or descriptor.size % DESC_SIZE:
            raise MalformedRing(f"an indirect table of {descriptor.size} bytes")
        return self.buffers.read("indirect", descriptor.address, descriptor.size)
