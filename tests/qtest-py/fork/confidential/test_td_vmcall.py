"""What a trust domain asks its host for: ports, MMIO, CPUID, a halt, and its own end.

Chapters are those of Intel's Guest-Host Communication Interface, GHCI.
"""

import struct
from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.hw.trust_domain import (
    SELECTABLE,
    SHARED,
    Status,
    TdcallLeaf,
    VmcallFunction,
    VmcallStatus,
)
from qap.hw.x86_cpu import CpuFault
from qap.scenario.confidential import Shared
from qap.verify.kit.sev_guest import DATA
from qap.verify.kit.td_guest import TdGuest, td_started

NMI = 2
RTC_INDEX, RTC_DATA = 0x70, 0x71
RTC_FREE = 0x50  # a byte of its RAM
IOAPIC = 0xFEC00000
LSTAR = 0xC0000082
MTRR_FIX64K = 0x250  # IA32_MTRR_FIX64K_00000, Intel SDM volume 3A, 12.11.2.2
X2APIC_ID = 0x802  # there in x2APIC mode alone
EDU_DMA_SOURCE = 0x80
R12, R13 = 1 << 12, 1 << 13
READ, WRITE = 0, 1
U64 = (1 << 64) - 1


@pytest.mark.parametrize("selected", [1 << 0, 1 << 1, 1 << 4, 1 << 32, 1 << 63])
def test_registers_that_no_host_gets_are_refused(tmp_path: Path, selected: int) -> None:
    """RAX, RCX and RSP; and bits that must be 0."""
    with td_started(tmp_path) as guest:
        left = guest.td.vmcall(VmcallFunction.GET_TD_VM_CALL_INFO, SELECTABLE | selected, r10=0)
        assert left["rax"] == Status.OPERAND_INVALID_RCX
        assert left["r11"] == VmcallFunction.GET_TD_VM_CALL_INFO


def test_every_host_has_the_functions_of_the_specification(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        filled = {"r13": U64, "r14": U64, "r15": 7}
        left = guest.td.vmcall(VmcallFunction.GET_TD_VM_CALL_INFO, **filled)
        assert (left["rax"], left["r10"], left["r15"]) == (0, VmcallStatus.SUCCESS, 7)
        assert [left[name] for name in ("r11", "r12", "r13", "r14")] == [0] * 4
        left = guest.td.vmcall(VmcallFunction.GET_TD_VM_CALL_INFO, r12=2)
        assert left["r10"] == VmcallStatus.INVALID_OPERAND


@pytest.mark.parametrize("function", [0, VmcallFunction.GET_QUOTE, 0x10004, 65, U64])
def test_function_that_is_not_there_says_so(tmp_path: Path, function: int) -> None:
    with td_started(tmp_path) as guest:
        left = guest.td.vmcall(function)
        assert (left["rax"], left["r10"]) == (0, VmcallStatus.SUBFUNC_UNSUPPORTED)
        # R10 says whose interface it is: there is none of a hypervisor's own.
        left = guest.td.vmcall(VmcallFunction.GET_TD_VM_CALL_INFO, r10=1)
        assert left["r10"] == VmcallStatus.SUBFUNC_UNSUPPORTED


def test_register_that_is_not_selected_is_0_for_the_host_and_stays(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        shared = DATA | SHARED
        left = guest.td.vmcall(VmcallFunction.MAP_GPA, SELECTABLE & ~R13, r12=shared, r13=0x1000)
        assert left["r10"] == VmcallStatus.INVALID_OPERAND
        assert left["r13"] == 0x1000
        assert Shared.of(guest.machine).shared == 0
        left = guest.td.vmcall(VmcallFunction.CPUID, SELECTABLE & ~R12, r12=0x21)
        assert left["r12"] == 0x21
        assert struct.pack("<III", left["r13"], left["r15"], left["r14"]) == b"GenuineIntel"


def port(guest: TdGuest, size: int, direction: int, number: int, value: int = 0) -> dict[str, int]:
    """GHCI, "Instruction.IO"."""
    asked = {"r12": size, "r13": direction, "r14": number, "r15": value}
    return guest.td.vmcall(VmcallFunction.IO, **asked)


def test_port_is_read_and_written(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        for value in (0x5A, 0xA5):
            assert port(guest, 1, WRITE, RTC_INDEX, RTC_FREE)["r10"] == VmcallStatus.SUCCESS
            assert port(guest, 1, WRITE, RTC_DATA, value | 0xFF00)["r10"] == VmcallStatus.SUCCESS
            read = port(guest, 1, READ, RTC_DATA)
            assert (read["rax"], read["r10"], read["r11"]) == (0, VmcallStatus.SUCCESS, value)
        # PCI's configuration: vendor and device of q35's host bridge.
        port(guest, 4, WRITE, 0xCF8, 1 << 31)
        assert port(guest, 4, READ, 0xCFC)["r11"] == 0x29C08086
        assert port(guest, 2, READ, 0xCFE)["r11"] == 0x29C0


@pytest.mark.parametrize(
    ("size", "direction", "number"),
    [
        (0, READ, RTC_DATA),
        (3, READ, RTC_DATA),
        (8, READ, 0xCFC),
        (U64, WRITE, RTC_DATA),
        (1, 2, RTC_DATA),
        (1, READ, 0x10071),
        (1, READ, U64),
    ],
)
def test_port_that_can_not_be_is_refused(
    tmp_path: Path, size: int, direction: int, number: int
) -> None:
    with td_started(tmp_path) as guest:
        left = port(guest, size, direction, number)
        assert left["r10"] == VmcallStatus.INVALID_OPERAND
        assert left["r11"] == VmcallFunction.IO


def mmio(guest: TdGuest, size: int, direction: int, at: int, value: int = 0) -> dict[str, int]:
    """GHCI, "Request.MMIO"."""
    asked = {"r12": size, "r13": direction, "r14": at, "r15": value}
    return guest.td.vmcall(VmcallFunction.MMIO, **asked)


def test_mmio_is_read_and_written(tmp_path: Path) -> None:
    """A register of QEMU's teaching device, in its BAR."""
    with td_started(tmp_path, devices=[{"driver": "edu"}]) as guest:
        bar = PciBus(guest.machine.qtest).find(0x1234, 0x11E8).map_bars()[0].address
        at = bar + EDU_DMA_SOURCE | SHARED
        for value in (0x0123456789ABCDEF, 5):
            assert mmio(guest, 8, WRITE, at, value)["r10"] == VmcallStatus.SUCCESS
            read = mmio(guest, 8, READ, at)
            assert (read["r10"], read["r11"]) == (VmcallStatus.SUCCESS, value)
            assert mmio(guest, 4, READ, at)["r11"] == value & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("size", "direction", "at"),
    [
        (0, READ, IOAPIC | SHARED),
        (3, READ, IOAPIC | SHARED),
        (16, READ, IOAPIC | SHARED),
        (4, 2, IOAPIC | SHARED),
        (4, READ, IOAPIC),
        (4, READ, IOAPIC | SHARED | 1 << 48),
        (8, READ, 2 * SHARED - 4),
        (4, WRITE, DATA | SHARED),
        (4, READ, DATA | SHARED),
    ],
)
def test_mmio_that_is_private_or_none_is_refused(
    tmp_path: Path, size: int, direction: int, at: int
) -> None:
    """RAM, shared or not, is no MMIO."""
    with td_started(tmp_path) as guest:
        guest.machine.qtest.writel(DATA, 0x1234)
        left = mmio(guest, size, direction, at)
        assert left["r10"] == VmcallStatus.INVALID_OPERAND
        assert left["r11"] == VmcallFunction.MMIO
        assert guest.machine.qtest.readl(DATA) == 0x1234


def test_cpuid_is_that_of_the_cpu(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        for leaf in (0, 1, 0x8000_0000):
            left = guest.td.vmcall(VmcallFunction.CPUID, r12=leaf)
            assert left["r10"] == VmcallStatus.SUCCESS
            words = [left[name] for name in ("r12", "r13", "r14", "r15")]
            assert words == guest.bare.cpu.cpuid(leaf, guest.td.cr3)


def test_msr_is_read_and_written(tmp_path: Path) -> None:
    """GHCI, "Instruction.RDMSR" and "Instruction.WRMSR"."""
    with td_started(tmp_path) as guest:
        for value in (0x0123456789ABCDEF, 5):
            wrote = guest.td.vmcall(VmcallFunction.WRMSR, r12=MTRR_FIX64K, r13=value)
            assert (wrote["rax"], wrote["r10"]) == (0, VmcallStatus.SUCCESS)
            read = guest.td.vmcall(VmcallFunction.RDMSR, r12=MTRR_FIX64K)
            assert (read["r10"], read["r11"]) == (VmcallStatus.SUCCESS, value)
            assert guest.bare.cpu.rdmsr(MTRR_FIX64K, guest.td.cr3) == value
        guest.bare.cpu.wrmsr(MTRR_FIX64K, 7, guest.td.cr3)
        assert guest.td.vmcall(VmcallFunction.RDMSR, r12=MTRR_FIX64K)["r11"] == 7


@pytest.mark.parametrize("function", [VmcallFunction.RDMSR, VmcallFunction.WRMSR])
@pytest.mark.parametrize("number", [X2APIC_ID, 1 << 32 | LSTAR, U64])
def test_msr_that_raises_an_exception_is_refused(
    tmp_path: Path, function: VmcallFunction, number: int
) -> None:
    """The guest gets a status: the exception would be the host's."""
    with td_started(tmp_path) as guest:
        left = guest.td.vmcall(function, r12=number)
        assert (left["r10"], left["r11"]) == (VmcallStatus.INVALID_OPERAND, function)


@pytest.mark.parametrize("function", [VmcallFunction.RDMSR, VmcallFunction.WRMSR])
def test_msr_of_the_guest_is_refused(tmp_path: Path, function: VmcallFunction) -> None:
    """A host has no access to what the CPU and the TDX module keep for the guest."""
    with td_started(tmp_path) as guest:
        guest.bare.cpu.wrmsr(LSTAR, 7, guest.td.cr3)
        left = guest.td.vmcall(function, r12=LSTAR, r13=5)
        assert (left["r10"], left["r11"]) == (VmcallStatus.INVALID_OPERAND, function)
        assert guest.bare.cpu.rdmsr(LSTAR, guest.td.cr3) == 7


def halted(guest: TdGuest) -> bool:
    """Whether the only CPU has halted; while it waits for code it has not."""
    return "HLT=1" in guest.machine.qmp.hmp("info registers")


def begin_halt(guest: TdGuest, blocked: int) -> None:
    """GHCI, "Instruction.HLT"; with RFLAGS.IF 0, as in Linux's idle loop."""
    asked = {"r11": VmcallFunction.HLT, "rcx": SELECTABLE, "r12": blocked}
    guest.bare.cpu.begin(guest.td.code(TdcallLeaf.VP_VMCALL, asked), guest.td.cr3)
    poll_until(lambda: halted(guest) or None, 10, lambda: "the CPU to halt")


def start_timer(guest: TdGuest, nanoseconds: int) -> None:
    """Let the CPU's own timer interrupt it once, by its x2APIC (SDM volume 3, chapter 12)."""
    base, enable, x2apic = 0x1B, 1 << 11, 1 << 10
    spurious, vector, divide, count = 0x80F, 0x832, 0x83E, 0x838
    at = guest.bare.cpu.rdmsr(base, guest.td.cr3)
    for number, value in (
        (base, at | enable | x2apic),
        (spurious, 0x1FF),
        (divide, 0xB),
        (vector, 0x40),
        (count, nanoseconds),
    ):
        guest.bare.cpu.wrmsr(number, value, guest.td.cr3)


def test_interrupt_ends_a_halt_though_the_cpu_blocks_it(tmp_path: Path) -> None:
    """The host does not see RFLAGS.IF, and Linux halts with 0 there."""
    with td_started(tmp_path) as guest:
        start_timer(guest, 2_000_000_000)
        begin_halt(guest, 0)
        guest.bare.cpu.end()
        left = guest.td.results()
        assert (left["rax"], left["r10"]) == (0, VmcallStatus.SUCCESS)


def test_halt_goes_on_while_the_guest_says_that_it_blocks_interrupts(tmp_path: Path) -> None:
    """An NMI ends it, as it ends a HLT."""
    with td_started(tmp_path) as guest:
        start_timer(guest, 1)
        line_1, is_nmi = 0x836, 4 << 8
        guest.bare.cpu.wrmsr(line_1, is_nmi, guest.td.cr3)
        begin_halt(guest, 1)
        guest.machine.qmp.execute("inject-nmi")
        with pytest.raises(CpuFault) as raised:
            guest.bare.cpu.end()
        assert raised.value.vector == NMI


def test_halt_of_another_kind_is_refused(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        assert guest.td.vmcall(VmcallFunction.HLT, r12=2)["r10"] == VmcallStatus.INVALID_OPERAND


def test_fatal_error_is_a_panic_and_its_text_is_printed(tmp_path: Path) -> None:
    """The CPU does not go on, whatever becomes of the machine."""
    with td_started(tmp_path, extra=["-action", "panic=pause"]) as guest:
        vm = guest.machine
        report_fatal_error(guest, b"TDX: no more of\x1b this\xff, please and thank you; it is over")
        event = vm.qmp.wait_event("GUEST_PANICKED", lambda data: True, 10)
        assert event["action"] == "pause"
        said = "fatal error 0x8000000000000001: TDX: no more of? this?, please and thank you"
        poll_until(lambda: said in vm.process.tail() or None, 10, lambda: f"QEMU to say {said}")
        assert vm.qmp.execute("query-status")["status"] == "guest-panicked"
        vm.qmp.execute("cont")
        poll_until(lambda: halted(guest) or None, 10, lambda: "the CPU to halt")


def report_fatal_error(guest: TdGuest, text: bytes) -> None:
    """GHCI, "ReportFatalError": 8 registers of text; no return."""
    words = struct.unpack("<8Q", text.ljust(64, b"\0")[:64])
    names = ("r14", "r15", "rbx", "rdi", "rsi", "r8", "r9", "rdx")
    asked = dict(zip(names, words, strict=True))
    asked |= {"r11": VmcallFunction.REPORT_FATAL_ERROR, "rcx": SELECTABLE, "r12": 1 << 63 | 1}
    guest.bare.cpu.begin(guest.td.code(TdcallLeaf.VP_VMCALL, asked), guest.td.cr3)
