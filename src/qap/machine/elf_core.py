"""What an ELF core says of a guest's memory (System V ABI, chapters 4 and 5)."""

import struct
from dataclasses import dataclass
from pathlib import Path

from qap.host.errors import QapError

# e_phoff, e_shoff; e_phentsize and e_phnum, of a 64-bit little-endian header.
OFFSETS = (0x20, "<QQ")
COUNTS = (0x36, "<HH")
# p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
LOAD = 1
# With this in e_phnum, sh_info of section 0 has the number.
PN_XNUM = 0xFFFF
SH_INFO = 0x2C


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD segment: addresses, and size in memory in bytes."""

    virtual: int
    physical: int
    size: int


def segments(core: Path) -> list[Segment]:
    """The segments of a 64-bit little-endian core that are loaded.

    Raises:
        QapError: it is no such file.
    """
    with core.open("rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\2\1":
            raise QapError(f"{core} is no 64-bit little-endian ELF file")
        program, section = struct.unpack_from(OFFSETS[1], head, OFFSETS[0])
        size, count = struct.unpack_from(COUNTS[1], head, COUNTS[0])
        if count == PN_XNUM:
            file.seek(section + SH_INFO)
            (count,) = struct.unpack("<I", file.read(4))
        file.seek(program)
        table = file.read(size * count)
    rows = (PROGRAM_HEADER.unpack_from(table, at * size) for at in range(count))
    return [Segment(row[3], row[4], row[6]) for row in rows if row[0] == LOAD]
