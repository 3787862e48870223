"""Page tables for an x86 CPU in long mode or with PAE (APM, publication 24593, chapter 5)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from qap.hw.x86_cpu import Mode
from qap.machine.qtest import Qtest

PAGE = 1 << 12
ENTRIES = 512
# APM 5.3: a page's size by the level whose entry maps it.
SIZES = {1: 1 << 12, 2: 1 << 21, 3: 1 << 30}

PRESENT = 1 << 0
WRITABLE = 1 << 1
ACCESSED_DIRTY = 1 << 5 | 1 << 6
LARGE = 1 << 7
C_BIT = 47


def shift(level: int) -> int:
    """The lowest bit of an address's index into a table of this level."""
    return 12 + 9 * (level - 1)


@dataclass(frozen=True)
class Shape:
    """How one page is mapped.

    Attributes:
        virtual: the address of its first byte.
        physical: where it is; both are multiples of its size.
        level: of the entry that maps it: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
        private: levels of the entries that have the C-bit.
        top: whether CR3 has the C-bit.
        reserved: further bits of its entry.
    """

    virtual: int
    physical: int
    level: int = 1
    private: frozenset[int] = frozenset()
    top: bool = False
    reserved: int = 0

    @property
    def entry(self) -> int:
        """The entry that maps it."""
        flags = PRESENT | WRITABLE | (LARGE if self.level > 1 else 0) | self.reserved
        return self.physical | flags | self.c_bit(self.level)

    def c_bit(self, level: int) -> int:
        """The C-bit if this level's entry has it, or else 0."""
        return 1 << C_BIT if level in self.private else 0


@dataclass
class X86PageTables:
    """Makes page tables in guest memory.

    For the firmware, each also maps the first and last 2 MiB below 4 GiB 1:1, shared.

    Args:
        qtest: writes them.
        mode: how many levels they have.
        at: the address of the first.
    """

    qtest: Qtest
    mode: Mode
    at: int

    def table(self, entries: dict[int, int]) -> int:
        """A table with these entries, by index; returns its address."""
        where, self.at = self.at, self.at + PAGE
        packed = bytearray(PAGE)
        for index, entry in entries.items():
            struct.pack_into("<Q", packed, index * 8, entry)
        self.qtest.write(where, bytes(packed))
        return where

    def _firmware(self) -> dict[int, int]:
        """Entries of the top table that map what the firmware needs."""
        last = (1 << 32) - SIZES[2]
        flags = PRESENT | WRITABLE | LARGE | ACCESSED_DIRTY
        low = self.table({0: flags})
        high = self.table({ENTRIES - 1: last | flags})
        # With PAE, entries of the top table have neither W nor A nor D (APM 5.2.3).
        link = PRESENT if self.mode == Mode.PAE else PRESENT | WRITABLE
        entries = {0: low | link, 3: high | link}
        for _ in range(self.mode - 3):
            entries = {0: self.table(entries) | PRESENT | WRITABLE}
        return entries

    def home(self) -> int:
        """CR3 of tables that map the firmware alone."""
        return self.table(self._firmware())

    def map(self, shape: Shape, noise: Sequence[int] = ()) -> int:
        """CR3 of tables that map a page, too. The page needs a top entry of its own.

        Args:
            noise: bits to flip in each entry of the walk, from the page's entry up.
        Raises:
            ValueError: its top entry is one of the firmware's.
        """
        flips = dict(enumerate(noise, shape.level))
        entry = shape.entry ^ flips.get(shape.level, 0)
        for level in range(shape.level, self.mode):
            where = self.table({shape.virtual >> shift(level) & ENTRIES - 1: entry})
            link = PRESENT if self.mode == Mode.PAE and level == 2 else PRESENT | WRITABLE
            entry = (where | link | shape.c_bit(level + 1)) ^ flips.get(level + 1, 0)
        entries = self._firmware()
        index = shape.virtual >> shift(self.mode) & ENTRIES - 1
        if index in entries:
            raise ValueError(f"{shape.virtual:#x} is within the firmware's entry {index}")
        return self.table({**entries, index: entry}) | (1 << C_BIT if shape.top else 0)
