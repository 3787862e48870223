"""A simulated SEV-SNP guest as its CPU sees it: the GHCB MSR, VMGEXIT, PVALIDATE and RMPADJUST.

"GHCB" is AMD's Guest-Hypervisor Communication Block Standardization (56421), "APM" the
Architecture Programmer's Manual, volume 3 (24594).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from qap.hw.x86_cpu import Cpu
from qap.hw.x86_page_tables import SIZES, Shape, X86PageTables

SEV_LEAF = 0x8000_001F
GHCB_MSR, SEV_STATUS = 0xC001_0130, 0xC001_0131
VMGEXIT = b"\xf3\x0f\x01\xd9"
PVALIDATE = b"\xf2\x0f\x01\xff"
RMPADJUST = b"\xf3\x0f\x01\xfe"
# RMPADJUST, RDX: the level whose permissions change; that the page has the state of a CPU.
VMPL1, VMSA = 1, 1 << 16
# What the host says where there is no answer.
NONE = 0xFFFF_FFFF_FFFF_F000
READ_FLAGS = b"\x9c\x5b"  # pushf; pop %rbx
COMPARE_WITH_0 = b"\x83\xf8\x00\x9c\x5a"  # cmp $0,%eax; pushf; pop %rdx
CARRY = 1 << 0


class Info(IntEnum):
    """The lowest 12 bits of the GHCB MSR (GHCB, "GHCB MSR Protocol"); an answer is one more."""

    SEV_INFO = 0x001
    SEV_INFO_REQUEST = 0x002
    CPUID_REQUEST = 0x004
    PREFERRED_GPA_REQUEST = 0x010
    REGISTER_GPA_REQUEST = 0x012
    PAGE_STATE_REQUEST = 0x014
    HV_FEATURES_REQUEST = 0x080
    TERMINATION_REQUEST = 0x100


class State(IntEnum):
    """What a page shall become, or a hint (GHCB, "SNP Page State Change")."""

    PRIVATE = 1
    SHARED = 2
    SPLIT = 3
    JOIN = 4


class Result(IntEnum):
    """What PVALIDATE and RMPADJUST return (APM, the instructions' pages)."""

    SUCCESS = 0
    FAIL_INPUT = 1
    FAIL_PERMISSION = 2
    FAIL_SIZEMISMATCH = 6


@dataclass
class SnpCpu:
    """Makes the calls of an SEV-SNP guest; for one thread at a time.

    Args:
        cpu: in long mode.
        tables: of the same machine.
        cr3: of page tables that map what the firmware needs.
        at: a virtual address whose top-level table entry is free.
    """

    cpu: Cpu
    tables: X86PageTables
    cr3: int
    at: int

    def call(self, msr: int) -> int:
        """Write the GHCB MSR, execute VMGEXIT, and return what the MSR has then."""
        # wrmsr; vmgexit; rdmsr
        code = b"\x0f\x30" + VMGEXIT + b"\x0f\x32"
        halves = {"rax": msr & 0xFFFF_FFFF, "rdx": msr >> 32}
        low, _, _, high = self.cpu.run(code, self.cr3, {"rcx": GHCB_MSR, **halves})
        return (high & 0xFFFF_FFFF) << 32 | low & 0xFFFF_FFFF

    def begin_call(self, msr: int) -> None:
        """Do as `call` does, but don't wait for an end."""
        halves = {"rax": msr & 0xFFFF_FFFF, "rdx": msr >> 32}
        self.cpu.begin(b"\x0f\x30" + VMGEXIT, self.cr3, {"rcx": GHCB_MSR, **halves})

    def set_page(self, gpa: int, state: int) -> int:
        """Ask for a page's state by the GHCB MSR; returns the host's error, or 0."""
        answer = self.call(state << 52 | gpa | Info.PAGE_STATE_REQUEST)
        if answer & 0xFFFF_FFFF != Info.PAGE_STATE_REQUEST + 1:
            raise ValueError(f"{answer:#x} is no answer to a page state change")
        return answer >> 32

    def pvalidate(self, gpa: int, validate: int = 1, size: int = 0) -> tuple[int, bool]:
        """PVALIDATE of the page at this address: EAX, and whether nothing changed (CF)."""
        rax, rbx, *_ = self._at(gpa, PVALIDATE + READ_FLAGS, {"rcx": size, "rdx": validate})
        return rax & 0xFFFF_FFFF, bool(rbx & CARRY)

    def rmpadjust(self, gpa: int, attributes: int = VMPL1, size: int = 0) -> int:
        """RMPADJUST of the page at this address: RAX."""
        return self._at(gpa, RMPADJUST, {"rcx": size, "rdx": attributes})[0]

    def flags(self, instruction: bytes, gpa: int, rcx: int, rdx: int) -> tuple[int, int, int]:
        """Execute PVALIDATE or RMPADJUST, and compare EAX with 0: EAX, and RFLAGS after each."""
        code = instruction + READ_FLAGS + COMPARE_WITH_0
        rax, rbx, _, compared = self._at(gpa, code, {"rcx": rcx, "rdx": rdx})
        return rax & 0xFFFF_FFFF, rbx, compared

    def _at(self, gpa: int, code: bytes, registers: dict[str, int]) -> list[int]:
        """Run code with the address of this page in RAX: RAX, RBX, RCX and RDX then."""
        large = SIZES[2]
        start = self.tables.at
        cr3 = self.tables.map(Shape(self.at, gpa // large * large, level=2))
        self.tables.at = start  # These are no longer used then.
        operand = self.at + gpa % large
        return self.cpu.run(code, cr3, {**registers, "rax": operand})


def page_state_entry(gpa: int, state: int, *, large: bool = False, done: int = 0) -> int:
    """An entry of a page state change (GHCB, the same chapter)."""
    return done | gpa | state << 52 | large << 56


def page_state_list(entries: list[int], first: int = 0, last: int | None = None) -> bytes:
    """A page state change: its header, and its entries."""
    end = len(entries) - 1 if last is None else last
    return struct.pack(f"<HHI{len(entries)}Q", first, end, 0, *entries)
