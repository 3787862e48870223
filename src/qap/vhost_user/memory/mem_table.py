"""The front-end's memory, mapped (vhost-user.rst, "Memory region description")."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from qap.vhost_user.protocol import ProtocolError


class BadAddress(Exception):
    """An address that the back-end can't reach; str() says which and why."""


@dataclass(frozen=True)
class MemoryRegion:
    """A mapped region.

    Attributes:
        guest_address: where it is in guest physical memory.
        size: in bytes.
        user_address: where the front-end has mapped it.
        mapping: our mapping.
        shift: offset of the region's first byte in `mapping`.
    """

    guest_address: int
    size: int
    user_address: int
    mapping: mmap.mmap
    shift: int


class MemTable:
    """The regions of SET_MEM_TABLE and ADD_MEM_REG.

    It owns its mappings. File descriptors stay the caller's.
    """

    def __init__(self) -> None:
        self.regions: tuple[MemoryRegion, ...] = ()

    def replace(self, regions: Sequence[Sequence[int]], fds: Sequence[int]) -> None:
        """Replace all regions by these.

        Args:
            regions: guest address, size, user address and mmap offset of each.
            fds: one for each region.
        Raises:
            ProtocolError: a region can't be mapped, or there are not as many fds as regions.
        """
        if len(regions) != len(fds):
            raise ProtocolError(f"{len(regions)} memory regions came with {len(fds)} files")
        self.close()
        for region, fd in zip(regions, fds, strict=True):
            self.add(region, fd)

    def add(self, words: Sequence[int], fd: int) -> None:
        """Map one more region; see `replace`."""
        guest_address, size, user_address, offset = words
        shift = offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapping = mmap.mmap(fd, shift + size, offset=offset - shift)
        except (OSError, ValueError, OverflowError) as exc:
            raise ProtocolError(
                f"{size:#x} bytes of guest memory at {guest_address:#x} can't be mapped: {exc}"
            ) from exc
        region = MemoryRegion(guest_address, size, user_address, mapping, shift)
        self.regions = (*self.regions, region)

    def remove(self, guest_address: int, size: int, user_address: int) -> None:
        """Unmap one region; REM_MEM_REG identifies it by these values.

        Raises:
            ProtocolError: there is no such region.
        """
        known = (guest_address, size, user_address)
        for region in self.regions:
            if (region.guest_address, region.size, region.user_address) == known:
                self.regions = tuple(other for other in self.regions if other is not region)
                region.mapping.close()
                return
        raise ProtocolError(f"no region of {size:#x} bytes at {guest_address:#x} was ever added")

    def at_guest(self, address: int) -> tuple[MemoryRegion, int]:
        """The region of a guest physical address, and the address's offset in it.

        Raises:
            BadAddress: it is in none.
        """
        for region in self.regions:
            at = address - region.guest_address
            if 0 <= at < region.size:
                return region, at
        raise BadAddress(f"guest physical address {address:#x} is in no memory region")

    def at_user(self, address: int) -> tuple[MemoryRegion, int]:
        """The same for a user address of the front-end; raises as `at_guest` does."""
        for region in self.regions:
            at = address - region.user_address
            if 0 <= at < region.size:
                return region, at
        raise BadAddress(f"the front-end's address {address:#x} is in no memory region")

    def close(self) -> None:
        """Unmap everything; safe to repeat."""
        regions, self.regions = self.regions, ()
        for region in regions:
            region.mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
