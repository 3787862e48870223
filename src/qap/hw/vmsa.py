"""The page with the state that another CPU of an SEV-SNP guest begins with (VMSA).

Its layout is in AMD's Architecture Programmer's Manual, volume 2 (24593), appendix B, "VMSA
Layout".
"""

import struct
from dataclasses import dataclass, field

from qap.hw.x86_page_tables import PAGE

ES, CS, SS, DS, GDTR, IDTR = 0x000, 0x010, 0x020, 0x030, 0x060, 0x080
VMPL, EFER, CR4, CR0, RFLAGS, RIP = 0x0CA, 0x0D0, 0x148, 0x158, 0x170, 0x178
RAX, PAT, RBX, R15, SEV_FEATURES = 0x1F8, 0x268, 0x318, 0x378, 0x3B0
SVME, SNP_ACTIVE = 1 << 12, 1
RESET_CR0, RESET_PAT = 0x6000_0010, 0x0007_0406_0007_0406
# Attributes of a segment, as they are packed there: code and data of 16 bits.
CODE, DATA = 0x09B, 0x093


@dataclass
class Vmsa:
    """A CPU in real mode.

    Args:
        code: where it begins, below 4 GiB.
        data: what DS begins with.
        fields: others, by offset; or instead of these.
    """

    code: int
    data: int
    fields: dict[int, int] = field(default_factory=dict)

    @property
    def page(self) -> bytes:
        """All of it."""
        page = bytearray(PAGE)
        for offset in (ES, SS, DS, CS):
            base, attributes = (self.code, CODE) if offset == CS else (self.data, DATA)
            struct.pack_into("<HHIQ", page, offset, 0, attributes, 0xFFFF, base)
        for offset in (GDTR, IDTR):
            struct.pack_into("<HHIQ", page, offset, 0, 0, 0xFFFF, 0)
        given = {
            EFER: SVME,
            CR0: RESET_CR0,
            RFLAGS: 2,
            RIP: 0,
            PAT: RESET_PAT,
            SEV_FEATURES: SNP_ACTIVE,
            **self.fields,
        }
        for offset, value in given.items():
            struct.pack_into("<Q", page, offset, value)
        return bytes(page)
