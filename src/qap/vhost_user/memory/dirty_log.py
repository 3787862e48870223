"""The log of what a back-end writes during migration (vhost-user.rst, "Migration")."""

import mmap

from qap.vhost_user.memory.mem_table import MemoryRegion
from qap.vhost_user.protocol import ProtocolError

LOG_PAGE = 0x1000
# VHOST_F_LOG_ALL of linux/vhost_types.h, a bit of SET_FEATURES.
LOG_ALL = 26
# VHOST_VRING_F_LOG, bit 0 of SET_VRING_ADDR's flags.
VRING_F_LOG = 1


class DirtyLog:
    """The bitmap of SET_LOG_BASE, mapped; it owns the mapping.

    A bit is set with a read and a write, while the front-end clears it atomically. In that
    race a page may be logged twice but is never lost. Two back-ends that share a log at the
    same time could lose each other's pages.

    Args:
        fd: the bitmap; stays the caller's.
        size: in bytes.
        offset: of its first byte in the file.
    Raises:
        ProtocolError: it can't be mapped.
    """

    def __init__(self, fd: int, size: int, offset: int) -> None:
        try:
            self._map = mmap.mmap(fd, size, offset=offset)
        except (OSError, ValueError) as exc:
            raise ProtocolError(f"the dirty log can't be mapped: {exc}") from exc

    def mark(self, address: int, size: int) -> None:
        """Log a write of `size` bytes at a guest physical address."""
        for page in range(address // LOG_PAGE, (address + size - 1) // LOG_PAGE + 1):
            if page // 8 < len(self._map):
                self._map[page // 8] |= 1 << page % 8

    def mark_buffer(self, _: int, region: MemoryRegion, at: int, size: int) -> None:
        """Log a write to a buffer; a `Dirty` of qap.vhost_user.memory.access."""
        self.mark(region.guest_address + at, size)

    def close(self) -> None:
        """Unmap it; safe to repeat."""
        self._map.close()
