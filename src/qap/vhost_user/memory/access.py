"""A queue's accesses to the driver's memory, all of which are recorded."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from qap.oracle.addresses import Space
from qap.vhost_user.memory.mem_table import MemoryRegion

What = Literal["desc", "driver", "device", "buffer", "indirect"]


class Touched(NamedTuple):
    """An access of the back-end to the driver's memory.

    Attributes:
        space: kind of `address`: I/O virtual, guest physical or the front-end's user-space
            address.
        address: of the first byte.
        size: in bytes.
        write: whether it was a write.
        what: a virtqueue's descriptor, driver or device area (virtio 1.3, 2.6), a buffer,
            or an indirect table.
        queue: index of the queue that it was for.
    """

    space: Space
    address: int
    size: int
    write: bool
    what: What
    queue: int


# The fields of a Touched as a plain tuple, which is faster to make for each access.
RawTouched = tuple[Space, int, int, bool, What, int]

# From address and whether to write: the region, the offset in it, and how many bytes from
# there on are contiguous.
Locate = Callable[[int, bool], tuple[MemoryRegion, int, int]]

# Called for each write: address, region, offset in it, and number of bytes.
Dirty = Callable[[int, MemoryRegion, int, int], None]


class MemoryAccess:
    """Reads and writes for one queue in one address space.

    Both raise what `locate` raises.

    Args:
        space: kind of the addresses.
        queue: index of the queue.
        touch: called for each access, after its address was located and before it is made.
        locate: locates an address; may wait for the front-end.
        dirty: logs a write for migration, or None.
    """

    def __init__(
        self,
        space: Space,
        queue: int,
        touch: Callable[[RawTouched], None],
        locate: Locate,
        dirty: Dirty | None = None,
    ) -> None:
        self.space = space
        self.queue = queue
        self._touch = touch
        self._locate = locate
        self._dirty = dirty

    def read(self, what: What, address: int, size: int) -> bytes:
        """A copy of `size` bytes."""
        region, at, room = self._locate(address, False)
        self._touch((self.space, address, size, False, what, self.queue))
        start = region.shift + at
        if size <= room:
            return region.mapping[start : start + size]
        pieces = [region.mapping[start : start + room]]
        while size > room:
            address += room
            size -= room
            region, at, room = self._locate(address, False)
            start = region.shift + at
            pieces.append(region.mapping[start : start + min(room, size)])
        return b"".join(pieces)

    def write(self, what: What, address: int, data: bytes) -> None:
        """Write all of `data`, at least one byte."""
        region, at, room = self._locate(address, True)
        self._touch((self.space, address, len(data), True, what, self.queue))
        while True:
            size = min(room, len(data))
            start = region.shift + at
            region.mapping[start : start + size] = data[:size]
            if self._dirty:
                self._dirty(address, region, at, size)
            data = data[size:]
            if not data:
                return
            address += size
            region, at, room = self._locate(address, True)
