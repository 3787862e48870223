"""The interface of all IOMMU drivers: domains, mappings and faults."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from qap.host.errors import QapError
from qap.hw.pci import Bdf
from qap.machine.guest_memory import PAGE, GuestMemory


class IommuError(QapError):
    """The IOMMU lacks or refuses what was requested, or the request is invalid."""


class FaultReason(Enum):
    """Why an access was refused, with the terms of virtio 1.3, 5.13.6.9.

    DOMAIN: the device has no domain. MAPPING: its domain has no mapping at that address, or
    the mapping does not allow the access. UNKNOWN: anything else; see `IommuFault.code`.
    """

    UNKNOWN = 0
    DOMAIN = 1
    MAPPING = 2


@dataclass(frozen=True)
class IommuFault:
    """An access that the IOMMU refused.

    Attributes:
        bdf: the device that made the access.
        address: IOVA of the access; VT-d gives only its page.
        write: whether it was a write; None if the IOMMU doesn't say.
        code: the reason's number in the IOMMU's own specification.
    """

    bdf: Bdf
    address: int
    reason: FaultReason
    write: bool | None
    code: int


class Iommu(ABC):
    """An IOMMU and its driver.

    Domains and mappings may be made at any time, also before `enable`. They last until they
    are removed. While translation is on, a device without a domain reaches nothing. A
    system reset turns translation off; the next `enable` restores everything.

    IOVAs, guest physical addresses and sizes are multiples of 4 KiB. Every method may
    raise IommuError, also for a device that has no domain, or already has one.

    A device's bus must have its number before `attach`: `PciBus.scan` assigns it.

    Attributes:
        limit: IOVAs are below this address.
    """

    limit: int

    @abstractmethod
    def enable(self) -> None:
        """Turn translation on for every device; safe to repeat."""

    @abstractmethod
    def disable(self) -> None:
        """Turn translation off: devices access guest physical memory directly."""

    @abstractmethod
    def attach(self, bdf: Bdf) -> None:
        """Create an empty domain for a device."""

    @abstractmethod
    def detach(self, bdf: Bdf) -> None:
        """Remove a device's domain with all its mappings."""

    @abstractmethod
    def move(self, bdf: Bdf, to: Bdf) -> None:
        """Move a device's domain with its mappings to another device that has none."""

    @abstractmethod
    def map(
        self,
        bdf: Bdf,
        iova: int,
        physical: int,
        size: int,
        *,
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        """Map guest physical memory for a device at IOVAs where nothing is mapped yet."""

    @abstractmethod
    def unmap(self, bdf: Bdf, iova: int, size: int) -> None:
        """Remove the mappings in a range, if any, and invalidate the caches for it."""

    @abstractmethod
    def flush(self) -> None:
        """Invalidate every cache of the IOMMU."""

    @abstractmethod
    def faults(self) -> list[IommuFault]:
        """Faults since the last call, as far as the IOMMU has recorded them."""

    def map_memory(self, bdf: Bdf, memory: GuestMemory) -> None:
        """Map all of a driver's memory at the addresses that the device uses."""
        start = memory.base if memory.iova is None else memory.iova
        self.map(bdf, start, memory.base, memory.size)

    def _check(self, iova: int, size: int, physical: int = 0) -> None:
        if size <= 0 or (iova | size | physical) % PAGE:
            raise IommuError(f"{size:#x} bytes at IOVA {iova:#x} are no multiple of {PAGE}")
        if iova + size > self.limit:
            raise IommuError(f"IOVA {iova + size - 1:#x} is not below {self.limit:#x}")


def source_id(bdf: Bdf) -> int:
    """The requester ID of a function (PCI Express 2.2.6.2)."""
    return bdf.bus << 8 | bdf.device << 3 | bdf.function


def source_bdf(number: int) -> Bdf:
    """The function with a requester ID."""
    return Bdf(number >> 8 & 0xFF, number >> 3 & 0x1F, number & 7)


def blocks(address: int, size: int, most: int) -> Iterator[tuple[int, int]]:
    """Split a range into aligned blocks of 2**order pages: (address, order); order <= `most`."""
    end = address + size
    while address < end:
        order = min(((end - address) // PAGE).bit_length() - 1, most)
        while address % (PAGE << order):
            order -= 1
        yield address, order
        address += PAGE << order


def sized_address(address: int, order: int) -> tuple[int, bool]:
    """A block's address field, which also encodes its size, and its S bit (PCI Express 10.2.3.2).

    The lowest bit from 12 up that is 0 gives the size of the block.
    """
    return address | (PAGE << order >> 1) - 1 & ~(PAGE - 1), order > 0
