"""The page in which an SEV-SNP guest calls its host.

Offsets and numbers are those of AMD's Guest-Hypervisor Communication Block Standardization
(56421), chapters "GHCB Layout" and "Supported SEV-ES GHCB Exit Codes".
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from qap.hw.snp_cpu import Info, SnpCpu, State
from qap.hw.x86_page_tables import PAGE

RAX, EXIT_CODE, EXIT_INFO1, EXIT_INFO2 = 0x1F8, 0x390, 0x398, 0x3A0
SCRATCH, VALID_BITMAP, BUFFER, BUFFER_END = 0x3A8, 0x3F0, 0x800, 0xFF0
VERSION, USAGE = 0xFFA, 0xFFC
ASKED = (EXIT_CODE, EXIT_INFO1, EXIT_INFO2)
# SW_EXITINFO1, and SW_EXITINFO2 of a page state change
DONE, MALFORMED = 0, 2
INVALID_HEADER, INVALID_ENTRY = 1 << 32 | 1, 1 << 32 | 2


class Event(IntEnum):
    """What the host shall do."""

    NMI_COMPLETE = 0x8000_0003
    AP_RESET_HOLD = 0x8000_0004
    PAGE_STATE_CHANGE = 0x8000_0010
    GUEST_REQUEST = 0x8000_0011
    AP_CREATION = 0x8000_0013
    HV_FEATURES = 0x8000_FFFD
    TERMINATION_REQUEST = 0x8000_FFFE
    CPUID = 0x72


class Reason(IntEnum):
    """Why a request is malformed."""

    NOT_REGISTERED = 1
    INVALID_USAGE = 2
    INVALID_SCRATCH = 3
    MISSING_INPUT = 4
    INVALID_INPUT = 5
    INVALID_EVENT = 6


@dataclass
class Ghcb:
    """A page for calls.

    Args:
        snp: calls the host.
        address: of the page.
        version: of the protocol, as the page says.
        usage: as the page says.
    """

    snp: SnpCpu
    address: int
    version: int = 2
    usage: int = 0
    fields: dict[int, int] = field(default_factory=dict)

    def lend(self) -> None:
        """Share the page, and register it."""
        self.snp.set_page(self.address, State.SHARED)
        self.register()

    def register(self) -> int:
        """Ask to use the page; returns the GHCB MSR."""
        return self.snp.call(self.address | Info.REGISTER_GPA_REQUEST)

    def prepare(self, code: int, info1: int = 0, info2: int = 0, *, buffer: bytes = b"") -> None:
        """Write all of the page, with the fields that `fields` adds."""
        given = {EXIT_CODE: code, EXIT_INFO1: info1, EXIT_INFO2: info2, **self.fields}
        if buffer:
            given.setdefault(SCRATCH, self.address + BUFFER)
        page = bytearray(PAGE)
        for offset, value in given.items():
            struct.pack_into("<Q", page, offset, value)
        page[BUFFER : BUFFER + len(buffer)] = buffer
        struct.pack_into("<16s", page, VALID_BITMAP, bitmap(given))
        struct.pack_into("<HI", page, VERSION, self.version, self.usage)
        self.snp.cpu.qtest.write(self.address, bytes(page))

    def call(
        self, code: int, info1: int = 0, info2: int = 0, *, buffer: bytes = b""
    ) -> tuple[int, int]:
        """Have the host do something; returns SW_EXITINFO1 and SW_EXITINFO2."""
        self.prepare(code, info1, info2, buffer=buffer)
        self.snp.call(self.address)
        return self.answer

    def change(self, pages: bytes) -> tuple[int, int]:
        """Ask for a page state change."""
        return self.call(Event.PAGE_STATE_CHANGE, buffer=pages)

    @property
    def answer(self) -> tuple[int, int]:
        """SW_EXITINFO1 and SW_EXITINFO2."""
        info1, info2 = struct.unpack("<QQ", self.snp.cpu.qtest.read(self.address + EXIT_INFO1, 16))
        return info1, info2

    @property
    def valid(self) -> bytes:
        """The bitmap of valid fields."""
        return self.snp.cpu.qtest.read(self.address + VALID_BITMAP, 16)

    @property
    def done(self) -> int:
        """The entry that a page state change goes on with."""
        return self.snp.cpu.qtest.readw(self.address + BUFFER)


def bitmap(offsets: Collection[int]) -> bytes:
    """The bitmap that says that these fields are valid."""
    return sum(1 << offset // 8 for offset in offsets).to_bytes(16, "little")
