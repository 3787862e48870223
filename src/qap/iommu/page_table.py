"""Page tables in guest memory, for VT-d and the AMD IOMMU.

Both have 512 entries of 8 bytes, little-endian, at each level. A level resolves 9 bits of an
IOVA, above the 12 bits of a page. Only the bits in the entries differ.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from qap.iommu.driver import IommuError
from qap.machine import qtest_command as command
from qap.machine.guest_memory import PAGE, GuestMemory

ENTRIES = 512
LEVEL_BITS = 9
PAGE_BITS = 12
LARGEST_LEAF = 2


@dataclass(frozen=True)
class Format:
    """The bits of an entry; bits 12 and up are the address.

    Attributes:
        present: set in every valid entry.
        readable, writable: permissions; an entry for a table has both.
        large: set in a leaf above level 1.
        next_level: bit number of the table's level in an entry for a table; None for no such
            field.
    """

    present: int
    readable: int
    writable: int
    large: int = 0
    next_level: int | None = None

    def table(self, address: int, level: int) -> int:
        """An entry that points to a table of this level."""
        following = 0 if self.next_level is None else level << self.next_level
        return address | self.present | self.readable | self.writable | following

    def leaf(self, address: int, *, readable: bool, writable: bool) -> int:
        """A level 1 entry."""
        allowed = (self.readable if readable else 0) | (self.writable if writable else 0)
        return address | self.present | allowed


class Pages:
    """Allocates zeroed pages of guest memory, by guest physical address."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.qtest = memory.qtest
        self._free: list[int] = []

    def take(self) -> int:
        """A page.

        Raises:
            QapError: the memory is used up.
        """
        if self._free:
            return self._free.pop()
        return self._memory.physical(self._memory.take(PAGE, PAGE))

    def give_back(self, pages: list[int]) -> None:
        """Zero pages and keep them for later."""
        self.qtest.run_all([command.memset(page, PAGE, 0) for page in pages])
        self._free += pages


class PageTable:
    """A domain's page table; 2 MiB pages are used if IOVA and address allow it.

    The object has a copy of the tables, so that a change needs no read from the guest.

    Args:
        levels: of the table, 2 at least.
        large: whether the IOMMU knows 2 MiB pages.
    Attributes:
        root: guest physical address of the top level.
    """

    def __init__(self, pages: Pages, entry: Format, levels: int, *, large: bool) -> None:
        self._pages = pages
        self._format = entry
        self._levels = levels
        self._large = large
        self._tables: dict[int, list[int]] = {}
        self._children: dict[tuple[int, int], int] = {}
        self._changed: dict[int, tuple[int, int]] = {}
        self.root = self._new_table()

    def map(self, iova: int, physical: int, size: int, *, readable: bool, writable: bool) -> None:
        """Map a range of whole pages.

        Raises:
            IommuError: part of it is mapped already; then nothing is changed.
        """
        if self._maps(self.root, self._levels, iova, iova + size):
            raise IommuError(f"part of {size:#x} bytes at IOVA {iova:#x} is mapped already")
        leaf = self._format.leaf(physical, readable=readable, writable=writable)
        self._fill(self.root, self._levels, iova, iova + size, leaf)
        self._write()

    def unmap(self, iova: int, size: int) -> None:
        """Unmap whatever is mapped in a range of whole pages."""
        self._clear(self.root, self._levels, iova, iova + size)
        self._write()

    def free(self) -> None:
        """Free every page; no IOMMU may use the table any more."""
        self._pages.give_back(list(self._tables))

    def _maps(self, table: int, level: int, start: int, end: int) -> bool:
        entries = self._tables[table]
        if level == 1:
            return any(entries[_index(start, 1) : _index(end - PAGE, 1) + 1])
        for index, first, last in _steps(level, start, end):
            child = self._children.get((table, index))
            if child is None:
                if entries[index]:
                    return True
            elif self._maps(child, level - 1, first, last):
                return True
        return False

    def _fill(self, table: int, level: int, start: int, end: int, leaf: int) -> None:
        """Write leaves from `start` on; `leaf` is the level 1 entry for the first page."""
        entries = self._tables[table]
        if level == 1:
            first, count = _index(start, 1), (end - start) // PAGE
            entries[first : first + count] = range(leaf, leaf + count * PAGE, PAGE)
        else:
            span = PAGE << LEVEL_BITS * (level - 1)
            for index, first, last in _steps(level, start, end):
                part = leaf + first - start
                fits = last - first == span and not part & span - 1 & ~(PAGE - 1)
                if self._large and level <= LARGEST_LEAF and fits and not entries[index]:
                    entries[index] = part | self._format.large
                else:
                    self._fill(self._child(table, level, index), level - 1, first, last, part)
        self._change(table, level, start, end)

    def _clear(self, table: int, level: int, start: int, end: int) -> None:
        entries = self._tables[table]
        if level == 1:
            first, count = _index(start, 1), (end - start) // PAGE
            entries[first : first + count] = [0] * count
        else:
            span = PAGE << LEVEL_BITS * (level - 1)
            for index, first, last in _steps(level, start, end):
                if not entries[index]:
                    continue
                if (table, index) not in self._children and last - first == span:
                    entries[index] = 0
                else:
                    self._clear(self._child(table, level, index), level - 1, first, last)
        self._change(table, level, start, end)

    def _child(self, table: int, level: int, index: int) -> int:
        """The table below an entry; it is created if needed, also in place of a large page."""
        if (table, index) not in self._children:
            child = self._new_table()
            entries = self._tables[table]
            if entries[index]:
                span = PAGE << LEVEL_BITS * (level - 1)
                first = entries[index] & ~self._format.large
                self._tables[child] = list(range(first, first + span, span // ENTRIES))
                self._changed[child] = (0, ENTRIES)
            entries[index] = self._format.table(child, level - 1)
            self._children[table, index] = child
        return self._children[table, index]

    def _new_table(self) -> int:
        page = self._pages.take()
        self._tables[page] = [0] * ENTRIES
        return page

    def _change(self, table: int, level: int, start: int, end: int) -> None:
        # Pop and insert again, so that a table is written after those that it points to.
        first, last = self._changed.pop(table, (ENTRIES, 0))
        span = _index(start, level), _index(end - PAGE, level) + 1
        self._changed[table] = min(first, span[0]), max(last, span[1])

    def _write(self) -> None:
        commands = []
        for table, (first, last) in self._changed.items():
            entries = self._tables[table][first:last]
            data = struct.pack(f"<{len(entries)}Q", *entries)
            commands.append(command.b64write(table + 8 * first, data))
        self._changed.clear()
        self._pages.qtest.run_all(commands)


def _index(iova: int, level: int) -> int:
    return iova >> PAGE_BITS + LEVEL_BITS * (level - 1) & ENTRIES - 1


def _steps(level: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The part of a range in each entry of a table: index, start and end."""
    span = PAGE << LEVEL_BITS * (level - 1)
    while start < end:
        stop = min(end, (start // span + 1) * span)
        yield _index(start, level), start, stop
        start = stop
