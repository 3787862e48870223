"""A hypervisor in an SEV guest: the physical addresses that it gives to the CPU have C-bits.

"APM" is AMD's Architecture Programmer's Manual, volume 2, publication 24593.
"""

from pathlib import Path

import pytest

from qap.hw.x86_cpu import Mode
from qap.hw.x86_page_tables import C_BIT, PAGE
from qap.hw.x86_svm import (
    EXIT_MSR,
    EXIT_PORT,
    EXIT_VMMCALL,
    IOPM_BASE,
    MSRPM_BASE,
    MSRS,
    PORTS,
    VM_HSAVE_PA,
    Vmcb,
)
from qap.verify.kit.sev_guest import DATA, SevGuest, started

VMCB, HOST_STATE, SAVED = 0x5000, 0x6000, 0x7000
MAP = DATA
PRIVATE = 1 << C_BIT
STAR, STAR_FIELD = 0xC000_0081, 0x600
PORT = 0x80
VMLOAD, VMSAVE = b"\x0f\x01\xda", b"\x0f\x01\xdb"
# How each guest begins, which exits at its end: nothing; in $PORT, %al; rdmsr of STAR.
NOTHING, READ_PORT = b"", b"\xe4\x80"
READ_MSR = b"\xb9\x81\x00\x00\xc0\x0f\x32"
# APM 15.10.1 and 15.11: the byte and bit of a map that stand for a port, and for reading an MSR.
MAPS = {
    "ports": (IOPM_BASE, PORTS, READ_PORT, PORT // 8, 1 << PORT % 8, EXIT_PORT),
    "MSRs": (MSRPM_BASE, MSRS, READ_MSR, 0x800 + 0x81 // 4, 1 << 0x81 % 4 * 2, EXIT_MSR),
}


def hypervisor(guest: SevGuest, host: int = HOST_STATE) -> Vmcb:
    """The means to run a guest, with SVM turned on."""
    vmcb = Vmcb(guest.cpu, VMCB, host)
    vmcb.enable(guest.home)
    return vmcb


def test_c_bit_is_no_part_of_a_vmcbs_address(tmp_path: Path) -> None:
    """Of VMRUN's, VMSAVE's and VMLOAD's operand."""
    with started(tmp_path, Mode.LONG) as guest:
        cpu, qtest = guest.cpu, guest.machine.qtest
        vmcb = hypervisor(guest)
        vmcb.prepare(guest.home)
        assert vmcb.run(NOTHING, guest.home, VMCB | PRIVATE) == EXIT_VMMCALL
        qtest.write(SAVED, bytes(PAGE))
        cpu.wrmsr(STAR, 0x1234_5678, guest.home)
        cpu.run(VMSAVE, guest.home, {"rax": SAVED | PRIVATE})
        assert qtest.readq(SAVED + STAR_FIELD) == 0x1234_5678
        qtest.writeq(SAVED + STAR_FIELD, 0x8765_4321)
        cpu.run(VMLOAD, guest.home, {"rax": SAVED | PRIVATE})
        assert cpu.rdmsr(STAR, guest.home) == 0x8765_4321


@pytest.mark.parametrize("kind", MAPS)
def test_c_bit_is_no_part_of_a_permission_maps_address(tmp_path: Path, kind: str) -> None:
    """What a map with a C-bit in its address says is obeyed."""
    field, intercept, code, byte, bit, refused = MAPS[kind]
    with started(tmp_path, Mode.LONG) as guest:
        vmcb = hypervisor(guest)
        for forbidden, expected in ((0, EXIT_VMMCALL), (bit, refused)):
            vmcb.prepare(guest.home, intercepts=intercept)
            vmcb.set(field, MAP | PRIVATE)
            guest.machine.qtest.write(MAP, bytes(3 * PAGE))
            guest.machine.qtest.writeb(MAP + byte, forbidden)
            assert vmcb.run(code, guest.home) == expected


def test_c_bit_is_no_part_of_the_host_states_address(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG) as guest:
        vmcb = hypervisor(guest, HOST_STATE | PRIVATE)
        assert guest.cpu.rdmsr(VM_HSAVE_PA, guest.home) & ~PRIVATE == HOST_STATE
        guest.machine.qtest.write(HOST_STATE, bytes(PAGE))
        vmcb.prepare(guest.home)
        assert vmcb.run(NOTHING, guest.home) == EXIT_VMMCALL
        assert guest.machine.qtest.read(HOST_STATE, PAGE) != bytes(PAGE)
