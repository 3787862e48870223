"""What the driver of any IOMMU does: give devices domains, map, unmap, and hear of faults."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from qap.host.errors import QapError
from qap.hw.pci import Bdf
from qap.machine.guest_memory import PAGE, GuestMemory


class IommuError(QapError):
    """The IOMMU lacks what was asked for, refused it, or was asked for what makes no sense."""


class FaultReason(Enum):
    """Why an access was refused, in the words of virtio 1.3, 5.13.6.9.

    DOMAIN: the device has no domain. MAPPING: its domain has no mapping there, or none
    that allows the access. UNKNOWN: anything else; `IommuFault.code` tells.
    """

    UNKNOWN = 0
    DOMAIN = 1
    MAPPING = 2


@dataclass(frozen=True)
class IommuFault:
    """An access that the IOMMU refused.

    Attributes:
        bdf: whose access it was.
        address: what the device wanted, as an IOVA. VT-d gives only its page.
        write: whether it wanted to write; None if the IOMMU doesn't say.
        code: the reason as the IOMMU's own specification numbers it.
    """

    bdf: Bdf
    address: int
    reason: FaultReason
    write: bool | None
    code: int


class Iommu(ABC):
    """An IOMMU and its driver.

    Domains and mappings may be made at any time, before `enable` too; they last until
    they are taken back. While translation is on, a device without a domain reaches
    nothing. A system reset turns translation off; the next `enable` restores everything.

    IOVAs, guest physical addresses and sizes are multiples of 4 KiB. Every method may
    raise IommuError, also for a device that has no domain, or has one already.

    A device's bus must have its number before its domain is made: `PciBus.scan` does it.

    Attributes:
        limit: IOVAs are below this one.
    """

    limit: int

    @abstractmethod
    def enable(self) -> None:
        """Turn translation on for every device; safe to repeat."""

    @abstractmethod
    def disable(self) -> None:
        """Turn translation off: what devices see is guest physical memory again."""

    @abstractmethod
    def attach(self, bdf: Bdf) -> None:
        """Give a device an empty domain of its own."""

    @abstractmethod
    def detach(self, bdf: Bdf) -> None:
        """Take a device's domain away, and all its mappings."""

    @abstractmethod
    def move(self, bdf: Bdf, to: Bdf) -> None:
        """Give a device's domain, mappings and all, to another device that has none."""

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
        """Let a device reach guest physical memory at an IOVA where nothing is mapped yet."""

    @abstractmethod
    def unmap(self, bdf: Bdf, iova: int, size: int) -> None:
        """Undo mappings, as far as there are any, and invalidate what is cached of them."""

    @abstractmethod
    def flush(self) -> None:
        """Invalidate every cache of the IOMMU."""

    @abstractmethod
    def faults(self) -> list[IommuFault]:
        """What was refused since the last call, as far as the IOMMU has kept it."""

    def map_memory(self, bdf: Bdf, memory: GuestMemory) -> None:
        """Map all of a driver's memory where the device is to see it."""
        start = memory.base if memory.iova is None else memory.iova
        self.map(bdf, start, memory.base, memory.size)

    def _check(self, iova: int, size: int, physical: int = 0) -> None:
        if size <= 0 or (iova | size | physical) % PAGE:
            raise IommuError(f"{size:#x} bytes at IOVA {iova:#x} are no multiple of {PAGE}")
        if iova + size > self.limit:
            raise IommuError(f"IOVA {iova + size - 1:#x} is not below {self.limit:#x}")


def source_id(bdf: Bdf) -> int:
    """The requester ID (PCI Express 2.2.6.2) that an IOMMU knows a function by."""
    return bdf.bus << 8 | bdf.device << 3 | bdf.function


def source_bdf(number: int) -> Bdf:
    """The function that a requester ID means."""
    return Bdf(number >> 8 & 0xFF, number >> 3 & 0x1F, number & 7)


def blocks(address: int, size: int, most: int) -> Iterator[tuple[int, int]]:
    """A range as aligned blocks of 2**order pages: (address, order), at most `most`."""
    end = address + size
    while address < end:
        order = min(((end - address) // PAGE).bit_length() - 1, most)
        while address % (PAGE << order):
            order -= 1
        yield address, order
        address += PAGE << order


def sized_address(address: int, order: int) -> tuple[int, bool]:
    """A block's address and S bit, which hold its size, too (PCI Express 10.2.3.2).

    The lowest bit from 12 up that is 0 says how large the block is.
    """
    return address | (PAGE << order >> 1) - 1 & ~(PAGE - 1), order > 0
