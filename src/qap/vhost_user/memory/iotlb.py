"""The device IOTLB: translations of the vIOMMU that the front-end has sent."""

import struct
from bisect import bisect_right
from enum import IntEnum, IntFlag
from typing import NamedTuple

# struct vhost_iotlb_msg: iova, size, user address, permission, type.
IOTLB_MSG = struct.Struct("=QQQBB6x")


class IotlbType(IntEnum):
    """vhost-user.rst, "An IOTLB message": type."""

    MISS = 1
    UPDATE = 2
    INVALIDATE = 3
    ACCESS_FAIL = 4


class Permission(IntFlag):
    """vhost-user.rst, "An IOTLB message": permissions flags."""

    NONE = 0
    READ = 1
    WRITE = 2
    READ_WRITE = 3


class IotlbEntry(NamedTuple):
    """A translation that the front-end has sent.

    Attributes:
        iova: I/O virtual address.
        size: in bytes.
        user_address: the front-end's, or a guest physical one with GPA_ADDRESSES.
        permission: what the device may do there, Permission bits.
    """

    iova: int
    size: int
    user_address: int
    permission: int


class Iotlb:
    """Translations of I/O virtual addresses to the front-end's addresses; none overlap.

    Attributes:
        invalidations: how many the front-end has sent.
    """

    def __init__(self) -> None:
        self.invalidations = 0
        self._entries: list[IotlbEntry] = []
        self._starts: list[int] = []

    @property
    def entries(self) -> list[IotlbEntry]:
        """By address, lowest first."""
        return list(self._entries)

    def update(self, entry: IotlbEntry) -> None:
        """Add an entry; entries that it overlaps are dropped."""
        self._drop(entry.iova, entry.size)
        at = bisect_right(self._starts, entry.iova)
        self._starts.insert(at, entry.iova)
        self._entries.insert(at, entry)

    def invalidate(self, iova: int, size: int) -> None:
        """Drop every entry that overlaps these bytes, as a whole.

        If that drops too much, the next access is a miss and asks for it again. A size of 0
        means all up to the end of the address space: 2**64 doesn't fit the field.
        """
        self.invalidations += 1
        self._drop(iova, size)

    def _drop(self, iova: int, size: int) -> None:
        if not self._entries:
            return
        end = iova + size if size else 1 << 64
        kept = [
            entry for entry in self._entries if entry.iova >= end or entry.iova + entry.size <= iova
        ]
        if len(kept) != len(self._entries):
            self._entries = kept
            self._starts = [entry.iova for entry in kept]

    def find(self, iova: int, permission: int) -> tuple[int, int] | None:
        """The user address, and how many bytes from there on the entry covers.

        None is a miss: there is no entry, or it lacks the permission.
        """
        at = bisect_right(self._starts, iova) - 1
        if at < 0:
            return None
        entry = self._entries[at]
        ahead = iova - entry.iova
        if ahead >= entry.size or permission & ~entry.permission:
            return None
        return entry.user_address + ahead, entry.size - ahead

    def clear(self) -> None:
        """Drop every entry."""
        self._entries = []
        self._starts = []
