"""#VE in a simulated trust domain: what raises it, and what the guest is told of it.

Exit reasons and qualifications are those of Intel's SDM, volume 3, appendix C and table 29-5.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from qap.hw.trust_domain import SHARED, Status, TdcallLeaf
from qap.hw.x86_cpu import CpuFault, Mode
from qap.hw.x86_page_tables import Shape
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.verify.kit.lab import Lab
from qap.verify.kit.sev_guest import DATA, FREE
from qap.verify.kit.td_guest import SIMULATION, TdGuest, td_started

INJECTING = f"{SIMULATION},inject-ve=on"
VIRTUALIZATION, DOUBLE_FAULT = 20, 8
CPUID, HLT, RDMSR, WRMSR = b"\x0f\xa2", b"\xf4", b"\x0f\x32", b"\x0f\x30"
IN_AL_DX, OUT_DX_EAX, OUT_80_AL, INSB = b"\xec", b"\xef", b"\xe6\x80", b"\x6c"
HOSTS_LEAF = 0x4000_0000
APIC_BASE, PAT, MTRR_DEFAULT, X2APIC_ICR = 0x1B, 0x277, 0x2FF, 0x830
EFER, LSTAR = 0xC000_0080, 0xC000_0082
EPT_VIOLATION, READ, WRITE = 48, 1, 2
IOAPIC = 0xFEC0_0000


def exception(guest: TdGuest, code: bytes, registers: Mapping[str, int]) -> int | None:
    """Which exception this code ends in."""
    try:
        guest.bare.cpu.run(code, guest.td.cr3, registers)
    except CpuFault as raised:
        return raised.vector
    return None


def asked(guest: TdGuest) -> tuple[int, list[int]]:
    """TDG.VP.VEINFO.GET: the status, and what the last #VE was for."""
    left = guest.td.tdcall(TdcallLeaf.VP_VEINFO_GET)
    return left["rax"], [left[name] for name in ("rcx", "rdx", "r8", "r9", "r10")]


@pytest.mark.parametrize(
    ("code", "registers", "reason", "qualification"),
    [
        (CPUID, {"rax": HOSTS_LEAF}, 10, 0),
        (CPUID, {"rax": 0x4FFF_FFFF}, 10, 0),
        (HLT, {}, 12, 0),
        (IN_AL_DX, {"rdx": 0x71}, 30, 0x71 << 16 | 1 << 3),
        (OUT_DX_EAX, {"rdx": 0xCF8}, 30, 0xCF8 << 16 | 3),
        (OUT_80_AL, {}, 30, 0x80 << 16),
        (INSB, {"rdx": 0x71}, 30, 0x71 << 16 | 1 << 3 | 1 << 4),
        (b"\xf3" + INSB, {"rdx": 0x71, "rcx": 1}, 30, 0x71 << 16 | 1 << 3 | 1 << 4 | 1 << 5),
        (RDMSR, {"rcx": MTRR_DEFAULT}, 31, 0),
        (RDMSR, {"rcx": X2APIC_ICR}, 31, 0),
        (WRMSR, {"rcx": APIC_BASE}, 32, 0),
    ],
)
def test_instruction_that_needs_the_host_raises_it(
    tmp_path: Path, code: bytes, registers: dict[str, int], reason: int, qualification: int
) -> None:
    with td_started(tmp_path, sim=INJECTING) as guest:
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        assert exception(guest, code, registers) == VIRTUALIZATION
        told = [reason, qualification, 0, 0, len(code)]
        assert asked(guest) == (Status.SUCCESS, told)
        assert asked(guest) == (Status.NO_VALID_VE_INFO, [0] * 5)


def test_what_the_cpu_and_the_module_have_raises_nothing(tmp_path: Path) -> None:
    with td_started(tmp_path, sim=INJECTING) as guest:
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        for leaf in (0, 0x21, 0x5000_0000, 0x8000_0000):
            assert exception(guest, CPUID, {"rax": leaf}) is None
        for number in (EFER, APIC_BASE, PAT):
            assert exception(guest, RDMSR, {"rcx": number}) is None
        assert exception(guest, WRMSR, {"rcx": LSTAR}) is None


def test_nothing_is_raised_before_the_first_call_or_without_the_property(tmp_path: Path) -> None:
    """Firmware knows nothing of TDX."""
    with td_started(tmp_path, sim=INJECTING) as guest:
        assert exception(guest, CPUID, {"rax": HOSTS_LEAF}) is None
        assert exception(guest, IN_AL_DX, {"rdx": 0x71}) is None
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        assert exception(guest, CPUID, {"rax": HOSTS_LEAF}) == VIRTUALIZATION
        again = guest.reset()
        assert exception(again, CPUID, {"rax": HOSTS_LEAF}) is None
        assert asked(again)[0] == Status.NO_VALID_VE_INFO
    with td_started(tmp_path) as guest:
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        assert exception(guest, CPUID, {"rax": HOSTS_LEAF}) is None


def test_second_one_before_the_guest_has_asked_is_a_double_fault(tmp_path: Path) -> None:
    with td_started(tmp_path, sim=INJECTING) as guest:
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        assert exception(guest, HLT, {}) == VIRTUALIZATION
        assert exception(guest, HLT, {}) == DOUBLE_FAULT


def test_shared_mmio_raises_it_and_ram_does_not(tmp_path: Path) -> None:
    with td_started(tmp_path, sim=INJECTING) as guest:
        cpu, at = guest.bare.cpu, FREE[Mode.LONG]
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        leaf = frozenset({1})
        cr3 = guest.bare.tables.map(Shape(at, IOAPIC, private=leaf))
        for qualification in (READ, WRITE, READ):
            with pytest.raises(CpuFault) as raised:
                if qualification == READ:
                    cpu.load(at + 4, cr3)
                else:
                    cpu.store(at + 4, 0, cr3)
            assert raised.value.vector == VIRTUALIZATION
            told = [EPT_VIOLATION, qualification, at + 4, IOAPIC + 4 | SHARED, 0]
            assert asked(guest) == (Status.SUCCESS, told)
        cpu.load(at, guest.bare.tables.map(Shape(at, IOAPIC)))
        guest.machine.qtest.writel(DATA, 7)
        assert cpu.load(at, guest.bare.tables.map(Shape(at, DATA, private=leaf))) == 7


def test_no_other_guest_gets_any(lab: Lab) -> None:
    options = ["-object", "x-confidential-sim,id=cg0,mode=sev,inject-ve=on"]
    spec = Spec("q35,confidential-guest-support=cg0", cpu="max", extra=options)
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert "inject-ve=on needs mode=tdx" in died.value.said
