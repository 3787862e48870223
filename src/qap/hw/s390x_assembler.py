"""Machine code of z/Architecture, as far as our own small guests need it.

"PoP" is z/Architecture Principles of Operation, SA22-7832: chapter 4, "Program-Status Word", and
chapter 5, "Instruction Formats".
"""

import struct
from dataclasses import dataclass, field

# PoP chapter 4: bits of the PSW, counted from the right.
PSW_EXTERNAL = 1 << 56
PSW_WAIT = 1 << 49
PSW_64_BIT = 1 << 32 | 1 << 31
SHORT_PSW = 0x0008_0000
SHORT_PSW_31_BIT = 0x8000_0000


@dataclass
class Assembler:
    """Machine code with labels, one method a format (PoP chapter 5, "Instruction Formats").

    A displacement `d` is added to base register `b`; 0 means that there is none.
    """

    code: bytearray = field(default_factory=bytearray)
    labels: dict[str, int] = field(default_factory=dict)
    branches: dict[int, str] = field(default_factory=dict)

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def rr_extended(self, opcode: int, r1: int, r2: int = 0) -> None:
        self.code += struct.pack(">HBB", opcode, 0, r1 << 4 | r2)

    def rx(self, opcode: int, r1: int, d: int, b: int) -> None:
        self.code += struct.pack(">BBH", opcode, r1 << 4, b << 12 | d)

    def rsy(self, opcode: int, r1: int, r3: int, d: int, b: int = 0) -> None:
        self.code += struct.pack(">BBHBB", opcode >> 8, r1 << 4 | r3, b << 12 | d, 0, opcode & 0xFF)

    def ri(self, opcode: int, r1: int, value: int) -> None:
        self.code += struct.pack(">BBh", opcode >> 4, r1 << 4 | opcode & 0xF, value)

    def ril(self, opcode: int, r1: int, value: int) -> None:
        self.code += struct.pack(">BBI", opcode >> 4, r1 << 4 | opcode & 0xF, value)

    def s(self, opcode: int, d: int, b: int = 0) -> None:
        self.code += struct.pack(">HH", opcode, b << 12 | d)

    def si(self, opcode: int, d: int, value: int, b: int = 0) -> None:
        self.code += struct.pack(">BBH", opcode, value, b << 12 | d)

    def ss(self, opcode: int, size: int, d1: int, b1: int, d2: int) -> None:
        self.code += struct.pack(">BBHH", opcode, size - 1, b1 << 12 | d1, d2)

    def branch(self, opcode: int, mask_or_r1: int, label: str) -> None:
        self.branches[len(self.code)] = label
        self.ri(opcode, mask_or_r1, 0)

    def finish(self) -> bytes:
        for at, label in self.branches.items():
            struct.pack_into(">h", self.code, at + 2, (self.labels[label] - at) // 2)
        return bytes(self.code)
