"""A simulated trust domain (Intel TDX) as its CPU sees it: TDCALL with registers from Python.

"Module" is Intel's TDX Module ABI Reference Specification (348551), "GHCI" the Guest-Host
Communication Interface for it (344426).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from qap.hw.x86_cpu import Cpu

TDCALL = b"\x66\x0f\x01\xcc"
LEAF = 0x21
SHARED = 1 << 47
# Where the code that `TrustDomain` runs leaves registers: 16 of 8 bytes.
RESULTS = 0x4000

# In the order of their numbers in instructions.
NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
KEPT = ("rsp", "rbp")


class TdcallLeaf(IntEnum):
    """What TDCALL does, by RAX (Module, "TDCALL Instruction Leaf Numbers")."""

    VP_VMCALL = 0
    VP_INFO = 1
    VP_VEINFO_GET = 3
    MEM_PAGE_ACCEPT = 6
    VM_RD = 7
    VM_WR = 8


class Status(IntEnum):
    """What TDCALL returns in RAX (Module, "Function Completion Status Codes")."""

    SUCCESS = 0
    OPERAND_INVALID_RAX = 0xC000010000000000
    OPERAND_INVALID_RCX = 0xC000010000000001
    NO_VALID_VE_INFO = 0xC000070400000000
    PAGE_ALREADY_ACCEPTED = 0x00000B0A00000000
    PAGE_SIZE_MISMATCH_2M = 0xC0000B0B00000001
    FIELD_ID_INCORRECT = 0xC0000C0000000000
    FIELD_NOT_WRITABLE = 0xC0000C0100000000
    FIELD_VALUE_NOT_VALID = 0xC0000C0300000000


class VmcallFunction(IntEnum):
    """What the guest asks its host for, by R11 (GHCI, "TDG.VP.VMCALL")."""

    CPUID = 10
    HLT = 12
    IO = 30
    RDMSR = 31
    WRMSR = 32
    MMIO = 48
    GET_TD_VM_CALL_INFO = 0x10000
    MAP_GPA = 0x10001
    GET_QUOTE = 0x10002
    REPORT_FATAL_ERROR = 0x10003


class VmcallStatus(IntEnum):
    """What the host returns in R10 (GHCI, the same chapter)."""

    SUCCESS = 0
    INVALID_OPERAND = 0x8000000000000000
    ALIGN_ERROR = 0x8000000000000002
    SUBFUNC_UNSUPPORTED = 0x8000000000000003


class TdField(IntEnum):
    """Metadata of a TD, as Linux names them to TDG.VM.RD and WR (Module, "TD-Scope Metadata")."""

    NUM_VCPUS = 0x9010000000000001
    ATTRIBUTES = 0x1110000300000000
    MAX_VCPUS = 0x1110000300000002
    GPAW = 0x1110000300000003
    NOTIFY_ENABLES = 0x9100000000000010
    CONFIG_FLAGS = 0x1110000300000016
    TD_CTLS = 0x1110000300000017
    TOPOLOGY_ENUM_CONFIGURED = 0x9100000000000019


# All registers that RCX may select: all but rax, rcx and rsp. Code of ours keeps rbp, too.
SELECTABLE = sum(1 << NAMES.index(name) for name in NAMES if name not in ("rax", "rcx", "rsp"))


@dataclass
class TrustDomain:
    """Makes TDCALLs; for one thread at a time.

    Args:
        cpu: in long mode.
        cr3: of page tables that also map the first 2 MiB 1:1.
    """

    cpu: Cpu
    cr3: int

    def tdcall(self, leaf: int, registers: Mapping[str, int] | None = None) -> dict[str, int]:
        """Execute TDCALL with these registers, and return all of them afterwards.

        Args:
            leaf: RAX.
            registers: by name; those that are not named are 0. rsp and rbp can't be.
        Raises:
            CpuFault: it ended in an exception.
            TimeoutError: it doesn't end.
        """
        code = self.code(leaf, registers)
        self.cpu.run(code, self.cr3)
        return self.results()

    def code(self, leaf: int, registers: Mapping[str, int] | None = None) -> bytes:
        """What `tdcall` executes."""
        given = {**(registers or {}), "rax": leaf}
        loads = (
            _load(number, given.get(name, 0))
            for number, name in enumerate(NAMES)
            if name not in KEPT
        )
        stores = (_store(number) for number in range(len(NAMES)))
        return b"".join((*loads, TDCALL, *stores))

    def results(self) -> dict[str, int]:
        """The registers that the last TDCALL left."""
        left = struct.unpack("<16Q", self.cpu.qtest.read(RESULTS, 16 * 8))
        return dict(zip(NAMES, left, strict=True))

    def vmcall(self, function: int, selected: int = SELECTABLE, **registers: int) -> dict[str, int]:
        """TDG.VP.VMCALL: returns all registers.

        Args:
            selected: RCX.
            registers: as of `tdcall`.
        """
        asked = {"r11": function, "rcx": selected, **registers}
        return self.tdcall(TdcallLeaf.VP_VMCALL, asked)

    def map_gpa(self, address: int, size: int) -> int:
        """Ask for pages to be shared if the address has `SHARED`, or else private.

        Returns:
            The host's status.
        """
        return self.vmcall(VmcallFunction.MAP_GPA, r12=address, r13=size)["r10"]

    def accept(self, address: int, level: int = 0) -> int:
        """TDG.MEM.PAGE.ACCEPT of a page of 4 KiB, or 2 MiB with level 1; returns the status."""
        return self.tdcall(TdcallLeaf.MEM_PAGE_ACCEPT, {"rcx": address | level})["rax"]


def _load(number: int, value: int) -> bytes:
    """mov $value, %register"""
    return bytes([0x48 | number >> 3, 0xB8 | number & 7]) + struct.pack("<Q", value)


def _store(number: int) -> bytes:
    """mov %register, (its place in RESULTS)"""
    prefix = 0x48 | (number >> 3) << 2
    return bytes([prefix, 0x89, (number & 7) << 3 | 4, 0x25]) + struct.pack(
        "<I", RESULTS + 8 * number
    )
