"""The buffer with the chains that are in flight (vhost-user.rst, "Inflight I/O tracking").

Its words are in the host's byte order.
"""

import mmap
import struct
from typing import Self

from qap.vhost_user.protocol import ProtocolError
from qap.vhost_user.ring.ring import Chain, Descriptor

VERSION = 1
ALIGNMENT = 64

# QueueRegionSplit: features, version, desc_num, last_batch_head, used_idx; and its
# DescStateSplit: inflight, padding, next, counter.
SPLIT_HEAD = struct.Struct("=QHHHH")
SPLIT_DESC = struct.Struct("=B5xHQ")
# QueueRegionPacked: features, version, desc_num, free_head, old_free_head, used_idx,
# old_used_idx, used_wrap_counter, old_used_wrap_counter, padding; and its
# DescStatePacked: inflight, padding, next, last, num, counter, id, flags, len, addr.
PACKED_HEAD = struct.Struct("=QHHHHHHBB7x3x")
PACKED_DESC = struct.Struct("=BxHHHQHHIQ")


def region_size(entries: int, *, packed: bool) -> int:
    """Bytes for a queue with this number of entries, a multiple of ALIGNMENT."""
    head, desc = (PACKED_HEAD, PACKED_DESC) if packed else (SPLIT_HEAD, SPLIT_DESC)
    return -(-(head.size + desc.size * entries) // ALIGNMENT) * ALIGNMENT


class Inflight:
    """The buffer of SET_INFLIGHT_FD, mapped; it owns the mapping.

    Chains are noted in it while they are served. They are not served from it after a
    reconnect: QEMU's SET_VRING_BASE makes them available again.

    Args:
        fd: the buffer; stays the caller's.
        words: mmap size, mmap offset, number of queues, queue size.
        packed: whether the rings are packed.
    Raises:
        ProtocolError: it can't be mapped, or is too small.
    """

    def __init__(self, fd: int, words: tuple[int, ...], *, packed: bool) -> None:
        size, offset, self.queues, self.entries = words
        self.packed = packed
        self._stride = region_size(self.entries, packed=packed)
        if self._stride * self.queues > size:
            raise ProtocolError(f"an inflight buffer of {size} bytes for {self.queues} queues")
        try:
            self._map = mmap.mmap(fd, size, offset=offset)
        except (OSError, ValueError) as exc:
            raise ProtocolError(f"the inflight buffer can't be mapped: {exc}") from exc
        self._counter = 0
        for queue in range(self.queues):
            self._prepare(queue * self._stride)

    def _prepare(self, base: int) -> None:
        if SPLIT_HEAD.unpack_from(self._map, base)[1] == VERSION:
            return
        if not self.packed:
            SPLIT_HEAD.pack_into(self._map, base, 0, VERSION, self.entries, 0, 0)
            return
        PACKED_HEAD.pack_into(self._map, base, 0, VERSION, self.entries, 0, 0, 0, 0, 1, 1)
        for at in range(self.entries):
            self._put_packed(base, at, [0, at + 1, 0, 0, 0, 0, 0, 0, 0])

    def begin(self, queue: int, chain: Chain) -> int:
        """Note a chain that was taken; returns its entry, for `end`."""
        self._counter += 1
        base = queue * self._stride
        if not self.packed:
            where = base + SPLIT_HEAD.size + SPLIT_DESC.size * chain.id
            _, following, _ = SPLIT_DESC.unpack_from(self._map, where)
            SPLIT_DESC.pack_into(self._map, where, 1, following, self._counter)
            return chain.id
        head = list(PACKED_HEAD.unpack_from(self._map, base))
        first = at = last = head[3]
        for descriptor in chain.taken:
            last, at = at, self._note(base, at, chain.id, descriptor)
        state = self._packed(base, first)
        state[0], state[2:5] = 1, [last, len(chain.taken), self._counter]
        self._put_packed(base, first, state)
        head[3] = head[4] = at
        PACKED_HEAD.pack_into(self._map, base, *head)
        return int(first)

    def end(self, queue: int, entry: int, used: int) -> None:
        """Note that a chain was used.

        Args:
            entry: what `begin` returned.
            used: position of the next used entry: a split ring's used idx; a packed ring's
                index and wrap counter, as SET_VRING_BASE encodes them.
        """
        base = queue * self._stride
        if not self.packed:
            head = list(SPLIT_HEAD.unpack_from(self._map, base))
            where = base + SPLIT_HEAD.size + SPLIT_DESC.size * entry
            _, _, counter = SPLIT_DESC.unpack_from(self._map, where)
            SPLIT_DESC.pack_into(self._map, where, 0, head[3], counter)
            head[3:5] = [entry, used]
            SPLIT_HEAD.pack_into(self._map, base, *head)
            return
        head = list(PACKED_HEAD.unpack_from(self._map, base))
        state = self._packed(base, entry)
        state[0] = 0
        self._put_packed(base, entry, state)
        last = self._packed(base, state[2])
        last[1] = head[3]
        self._put_packed(base, state[2], last)
        head[3:9] = [entry, entry, *[used & 0x7FFF] * 2, *[used >> 15 & 1] * 2]
        PACKED_HEAD.pack_into(self._map, base, *head)

    def in_flight(self, queue: int) -> list[int]:
        """Ids of the chains in flight, oldest first."""
        base = queue * self._stride
        chains = []
        for at in range(self.entries):
            if self.packed:
                state = self._packed(base, at)
                noted = (state[0], state[4], state[5])
            else:
                where = base + SPLIT_HEAD.size + SPLIT_DESC.size * at
                inflight, _, counter = SPLIT_DESC.unpack_from(self._map, where)
                noted = (inflight, counter, at)
            if noted[0]:
                chains.append(noted[1:])
        return [chain_id for _, chain_id in sorted(chains)]

    def _note(self, base: int, at: int, chain_id: int, descriptor: Descriptor) -> int:
        """Fill in a packed ring's free entry; returns the next free one."""
        state = self._packed(base, at)
        state[5:9] = [chain_id, descriptor.flags, descriptor.size, descriptor.address]
        self._put_packed(base, at, state)
        return state[1]

    def _packed(self, base: int, at: int) -> list[int]:
        where = base + PACKED_HEAD.size + PACKED_DESC.size * at
        return list(PACKED_DESC.unpack_from(self._map, where))

    def _put_packed(self, base: int, at: int, state: list[int]) -> None:
        where = base + PACKED_HEAD.size + PACKED_DESC.size * at
        PACKED_DESC.pack_into(self._map, where, *state)

    def close(self) -> None:
        """Unmap it; safe to repeat."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
