"""A guest of an x86 CPU (SVM): it waits for a flag and exits.

"APM" is AMD's Architecture Programmer's Manual, volume 2, publication 24593.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qap.host.wait import poll_until
from qap.hw.x86_cpu import CODE, FLAGS, RUN_S, Cpu

EFER = 0xC000_0080  # APM 3.1.7
VM_HSAVE_PA = 0xC001_0117  # APM 15.30.4
LONG_MODE, SVME = 0xD00, 1 << 12
PAGING, PAE = 0x8001_0011, 1 << 5
# APM appendix B: where fields of the VMCB are.
INTERCEPTS, IOPM_BASE, MSRPM_BASE, ASID = 0x00C, 0x040, 0x048, 0x058
EXIT_CODE, NESTED_PAGING, NESTED_CR3 = 0x070, 0x090, 0x0B0
SEGMENTS, GDTR, IDTR = 0x400, 0x460, 0x480
GUEST_EFER, CR4, CR3, CR0 = 0x4D0, 0x548, 0x550, 0x558
DR7, DR6, RFLAGS, RIP = 0x560, 0x568, 0x570, 0x578
# APM 15.9, appendix C: what a guest exits at.
PORTS, MSRS, VMRUN, VMMCALL = 1 << 27, 1 << 28, 1 << 32, 1 << 33
EXIT_PORT, EXIT_MSR, EXIT_VMMCALL = 0x7B, 0x7C, 0x81
# Attributes of a segment, as APM 15.5.1 packs them: 64-bit code, data.
CODE64, DATA = 0xA9B, 0xC93
GUEST_CODE = CODE + 0x400
VMRUN_CODE, VMMCALL_CODE = b"\x0f\x01\xd8", b"\x0f\x01\xd9"


@dataclass
class Vmcb:
    """A guest in long mode that executes what stands at GUEST_CODE.

    Args:
        cpu: in long mode.
        address: of a page, where it is and for whatever else it is given as an operand.
        host: of a page for the CPU's own state.
    """

    cpu: Cpu
    address: int
    host: int

    def set(self, field: int, value: int) -> None:
        """Write a field of 8 bytes."""
        self.cpu.qtest.writeq(self.address + field, value)

    def prepare(self, cr3: int, nested_cr3: int | None = None, intercepts: int = 0) -> None:
        """Write all of it; the guest exits by VMMCALL.

        Args:
            cr3: the guest's own; its tables map what the firmware needs.
            nested_cr3: of tables below these, or None for none.
            intercepts: what else it may exit at.
        """
        self.cpu.qtest.write(self.address, bytes(0x1000))
        self.set(INTERCEPTS, VMRUN | VMMCALL | intercepts)
        self.set(ASID, 1)
        self.set(NESTED_PAGING, nested_cr3 is not None)
        self.set(NESTED_CR3, nested_cr3 or 0)
        for index, attributes in enumerate((DATA, CODE64, DATA, DATA)):
            segment = struct.pack("<HHIQ", 8, attributes, 0xFFFF_FFFF, 0)
            self.cpu.qtest.write(self.address + SEGMENTS + 16 * index, segment)
        for field, value in (
            (GUEST_EFER, LONG_MODE | SVME),
            (CR4, PAE),
            (CR3, cr3),
            (CR0, PAGING),
            (DR7, 0x400),
            (DR6, 0xFFFF_0FF0),
            (RFLAGS, 2),
            (RIP, GUEST_CODE),
        ):
            self.set(field, value)

    def run(self, code: bytes, cr3: int, operand: int | None = None) -> int:
        """Run code in the guest up to its VMMCALL, or another exit; returns the exit code.

        Args:
            cr3: the host's.
            operand: of VMRUN, if it is not the address.
        Raises:
            CpuFault: VMRUN ended in an exception.
        """
        self._begin(code, cr3, self.address if operand is None else operand)
        self.cpu.end()
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """Why the guest exited last."""
        return self.cpu.qtest.readq(self.address + EXIT_CODE)

    @contextmanager
    def held(self, cr3: int) -> Iterator[None]:
        """Let the guest run meanwhile; it accesses only what the firmware needs.

        Raises:
            TimeoutError: it does not begin, or does not end.
        """
        qtest = self.cpu.qtest
        # movl $1, 4(%rbx); 1: pause; cmpl $0, (%rbx); je 1b
        code = b"\xc7\x43\x04\x01\x00\x00\x00" + b"\xf3\x90\x83\x3b\x00\x74\xf9"
        qtest.write(FLAGS, bytes(8))
        self._begin(code, cr3, self.address)
        poll_until(lambda: qtest.readl(FLAGS + 4) or None, RUN_S, lambda: "the guest to run")
        try:
            yield
        finally:
            qtest.writel(FLAGS, 1)
            self.cpu.end()

    def _begin(self, code: bytes, cr3: int, operand: int) -> None:
        self.cpu.qtest.write(GUEST_CODE, code + VMMCALL_CODE)
        self.cpu.begin(VMRUN_CODE, cr3, {"rax": operand, "rbx": FLAGS})

    def enable(self, cr3: int) -> None:
        """Turn SVM on, with the page for the CPU's own state."""
        self.cpu.wrmsr(EFER, LONG_MODE | SVME, cr3)
        self.cpu.wrmsr(VM_HSAVE_PA, self.host, cr3)
