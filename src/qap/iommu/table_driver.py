"""The common part of VT-d and the AMD IOMMU: tables in memory and a command ring."""

import struct
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from qap.hw.pci import Bdf
from qap.iommu.driver import Iommu, IommuError
from qap.iommu.page_table import Format, Pages, PageTable
from qap.machine import qtest_command as command
from qap.machine.guest_memory import PAGE, GuestMemory
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand

Entry = tuple[int, int]
ENTRY = struct.Struct("<QQ")


@dataclass(frozen=True)
class PageTableDomain:
    """A page table, and its domain id for the IOMMU's caches."""

    id: int
    table: PageTable


class CommandRing:
    """A ring of commands in one page, each of two 64-bit words."""

    def __init__(self, address: int) -> None:
        self.address = address
        self._next = 0

    @property
    def tail(self) -> int:
        """Where the next command goes: a byte offset."""
        return self._next

    def rewind(self) -> None:
        """Start again at the front, as the IOMMU does when the ring's address is set."""
        self._next = 0

    def add(self, entries: Sequence[Entry]) -> list[QtestCommand[None]]:
        """Advance the tail; returns the qtest commands that write the entries."""
        writes = []
        for entry in entries:
            writes.append(command.write(self.address + self._next, ENTRY.pack(*entry)))
            self._next = (self._next + ENTRY.size) % PAGE
        return writes


class PagedIommu(Iommu):
    """An IOMMU that finds a device's page table through tables of devices in memory.

    Args:
        memory: for its tables, which allocate from it as they grow.
        entry: the format of its page tables.
        levels: of each page table.
        large: whether it supports 2 MiB pages.
        caches_absence: whether it may cache that nothing is mapped, or that a device has
            no domain.
    """

    def __init__(
        self,
        memory: GuestMemory,
        entry: Format,
        levels: int,
        *,
        large: bool,
        caches_absence: bool,
    ) -> None:
        self.qtest: Qtest = memory.qtest
        self.limit = PAGE << 9 * levels
        self._pages = Pages(memory)
        self._format = entry
        self._levels = levels
        self._large = large
        self._caches_absence = caches_absence
        self._enabled = False
        self._domains: dict[Bdf, PageTableDomain] = {}

    @abstractmethod
    def _set_entry(self, bdf: Bdf, domain: PageTableDomain | None) -> None:
        """Write a device's table entry, which points to its domain."""

    @abstractmethod
    def _invalidate_entry(self, bdf: Bdf, domain: PageTableDomain, *, absent: bool) -> None:
        """Invalidate the caches for a device's entry and its domain.

        Args:
            absent: the cached entry says that the device has no domain.
        """

    @abstractmethod
    def _invalidate(self, bdf: Bdf, domain: PageTableDomain, iova: int, size: int) -> None:
        """Invalidate the caches for a range of a domain."""

    def attach(self, bdf: Bdf) -> None:
        self._check_free(bdf)
        used = {domain.id for domain in self._domains.values()}
        # VT-d 6.2.2.1: domain 0 is reserved for entries that are not present.
        number = next(number for number in count(1) if number not in used)
        table = PageTable(self._pages, self._format, self._levels, large=self._large)
        self._link(bdf, PageTableDomain(number, table))

    def detach(self, bdf: Bdf) -> None:
        self._unlink(bdf).table.free()

    def move(self, bdf: Bdf, to: Bdf) -> None:
        self._domain(bdf)
        self._check_free(to)
        self._link(to, self._unlink(bdf))

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
        domain = self._domain(bdf)
        self._check(iova, size, physical)
        domain.table.map(iova, physical, size, readable=readable, writable=writable)
        if self._enabled and self._caches_absence:
            self._invalidate(bdf, domain, iova, size)

    def unmap(self, bdf: Bdf, iova: int, size: int) -> None:
        domain = self._domain(bdf)
        self._check(iova, size)
        domain.table.unmap(iova, size)
        if self._enabled:
            self._invalidate(bdf, domain, iova, size)

    def remap(self, bdf: Bdf, iova: int, physical: int, size: int) -> None:
        """Map a range that is mapped to somewhere else, and invalidate nothing."""
        domain = self._domain(bdf)
        self._check(iova, size, physical)
        domain.table.unmap(iova, size)
        domain.table.map(iova, physical, size, readable=True, writable=True)

    def _link(self, bdf: Bdf, domain: PageTableDomain) -> None:
        self._set_entry(bdf, domain)
        self._domains[bdf] = domain
        if self._enabled and self._caches_absence:
            self._invalidate_entry(bdf, domain, absent=True)

    def _unlink(self, bdf: Bdf) -> PageTableDomain:
        domain = self._domain(bdf)
        del self._domains[bdf]
        self._set_entry(bdf, None)
        if self._enabled:
            self._invalidate_entry(bdf, domain, absent=False)
        return domain

    def _domain(self, bdf: Bdf) -> PageTableDomain:
        if bdf not in self._domains:
            raise IommuError(f"{bdf} has no domain")
        return self._domains[bdf]

    def _check_free(self, bdf: Bdf) -> None:
        if bdf in self._domains:
            raise IommuError(f"{bdf} has a domain already")
