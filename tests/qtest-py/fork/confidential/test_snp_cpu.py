"""The CPU of a simulated SEV-SNP guest: CPUID, SEV_STATUS, and what it asks by the GHCB MSR.

Requests are those of AMD's Guest-Hypervisor Communication Block Standardization (56421).
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.host.wait import poll_until
from qap.hw.snp_cpu import (
    GHCB_MSR,
    NONE,
    PVALIDATE,
    RMPADJUST,
    SEV_LEAF,
    SEV_STATUS,
    VMGEXIT,
    Info,
    State,
)
from qap.hw.x86_cpu import GENERAL_PROTECTION, CpuFault, Mode
from qap.hw.x86_page_tables import C_BIT, PAGE, Shape
from qap.verify.kit.sev_guest import DATA, FREE
from qap.verify.kit.simulated_guest import MEMORY
from qap.verify.kit.snp_guest import SnpGuest, snp_started

INVALID_OPCODE = 6
U64 = (1 << 64) - 1
MIB = 1 << 20
FIRMWARE = 0xF0000  # a ROM
SEV_INFO = 2 << 48 | 1 << 32 | C_BIT << 24 | Info.SEV_INFO


def test_cpu_says_that_it_is_of_an_snp_guest(tmp_path: Path) -> None:
    """CPUID leaf 0x8000001F and SEV_STATUS: SEV, SEV-ES and SEV-SNP; that can't be written."""
    with snp_started(tmp_path) as guest:
        cpu, home = guest.bare.cpu, guest.bare.home
        eax, ebx, _, _ = cpu.cpuid(SEV_LEAF, home)
        assert eax == 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5
        assert (ebx & 0x3F, ebx >> 12 & 0xF) == (C_BIT, 4)
        assert cpu.rdmsr(SEV_STATUS, home) == 7
        with pytest.raises(CpuFault) as raised:
            cpu.wrmsr(SEV_STATUS, 0, home)
        assert raised.value.vector == GENERAL_PROTECTION
        assert not guest.protecting


def test_mapping_shares_nothing(tmp_path: Path) -> None:
    """What a guest maps without the C-bit and accesses stays what it was."""
    with snp_started(tmp_path) as guest:
        guest.machine.qtest.writel(DATA, 0x1234)
        for private in (frozenset({1}), frozenset[int]()):
            at = FREE[Mode.LONG]
            cr3 = guest.bare.tables.map(Shape(at, DATA, private=private))
            assert guest.bare.cpu.load(at, cr3) == 0x1234
            assert not guest.protecting


def test_host_says_what_it_is(tmp_path: Path) -> None:
    """After a reset, and on request: versions 1 and 2, and the C-bit; then its features."""
    with snp_started(tmp_path) as guest:
        assert guest.bare.cpu.rdmsr(GHCB_MSR, guest.bare.home) == SEV_INFO
        assert guest.snp.call(Info.SEV_INFO_REQUEST) == SEV_INFO
        assert guest.snp.call(Info.PREFERRED_GPA_REQUEST) == NONE | 0x011
        features = guest.snp.call(Info.HV_FEATURES_REQUEST)
        assert features & 0xFFF == Info.HV_FEATURES_REQUEST + 1
        assert features >> 12 & 1


def test_first_vmgexit_starts_protection_and_a_reset_ends_it(tmp_path: Path) -> None:
    with snp_started(tmp_path) as guest:
        assert not guest.protecting
        guest.snp.call(Info.SEV_INFO_REQUEST)
        assert guest.protecting
        assert not guest.shared(DATA)
        again = guest.reset()
        assert not again.protecting
        assert again.bare.cpu.rdmsr(GHCB_MSR, again.bare.home) == SEV_INFO


@pytest.mark.parametrize("gpa", [MEMORY * MIB, FIRMWARE, 0xFEC0_0000, 1 << 47, U64 & ~0xFFF])
def test_page_for_the_ghcb_is_registered(tmp_path: Path, gpa: int) -> None:
    """If it is one of RAM."""
    with snp_started(tmp_path) as guest:
        assert guest.snp.call(DATA | Info.REGISTER_GPA_REQUEST) == DATA | 0x013
        assert guest.snp.call(gpa | Info.REGISTER_GPA_REQUEST) == NONE | 0x013


@pytest.mark.parametrize("leaf", [0, 1, SEV_LEAF, 0x8000_0008])
def test_cpuid_is_that_of_the_cpu(tmp_path: Path, leaf: int) -> None:
    with snp_started(tmp_path) as guest:
        expected = guest.bare.cpu.cpuid(leaf, guest.bare.home)
        for register, value in enumerate(expected):
            asked = leaf << 32 | register << 30 | Info.CPUID_REQUEST
            assert guest.snp.call(asked) == value << 32 | register << 30 | 0x005


@pytest.mark.parametrize("request_", [0x003, 0x016, 0x7FF, 1 << 12 | Info.CPUID_REQUEST])
def test_request_that_is_not_known_stays(tmp_path: Path, request_: int) -> None:
    """And so does one with reserved bits: it is no answer."""
    with snp_started(tmp_path) as guest:
        assert guest.snp.call(request_) == request_


@pytest.mark.parametrize("sim", ["", "x-confidential-sim,id=cg0,mode=sev"])
def test_outside_of_an_snp_guest_there_is_no_such_instruction(tmp_path: Path, sim: str) -> None:
    """VMGEXIT is VMMCALL there, which is one of a hypervisor's guest."""
    with snp_started(tmp_path) as guest:
        assert fault(guest, VMGEXIT) is None
        assert guest.protecting
    with snp_started(tmp_path, sim=sim) as guest:
        for code in (VMGEXIT, PVALIDATE, RMPADJUST):
            assert fault(guest, code) == INVALID_OPCODE
        assert guest.bare.cpu.rdmsr(GHCB_MSR, guest.bare.home) == 0


def test_guest_can_end_itself(tmp_path: Path) -> None:
    """It has panicked then, and its CPU does not go on."""
    with snp_started(tmp_path, extra=["-action", "panic=pause"]) as guest:
        vm = guest.machine
        guest.snp.begin_call(0x42 << 16 | 1 << 12 | Info.TERMINATION_REQUEST)
        assert vm.qmp.wait_event("GUEST_PANICKED", lambda data: True, 10)["action"] == "pause"
        said = "the guest terminates itself: reason 0x42 of set 1"
        poll_until(lambda: said in vm.process.tail() or None, 10, lambda: f"QEMU to say {said}")
        vm.qmp.execute("cont")
        poll_until(lambda: halted(guest) or None, 10, lambda: "the CPU to halt")


def test_any_request_is_answered(tmp_path: Path) -> None:
    """Whatever a guest asks by the MSR, QEMU lives on; it can't end itself here."""
    with snp_started(tmp_path) as guest:
        known = [one for one in Info if one != Info.TERMINATION_REQUEST]
        infos = st.one_of(
            st.sampled_from(known), st.integers(0, 0xFFF).filter(lambda info: info != 0x100)
        )
        pages = st.one_of(st.integers(0, MEMORY * MIB // PAGE), st.integers(0, U64 >> 12))

        @settings(max_examples=300, deadline=None, database=None)
        @given(infos, pages, st.sampled_from([0, *State, 15]))
        def check(info: int, page: int, state: int) -> None:
            asked = (page << 12 | state << 52 | info) & U64
            answer = guest.snp.call(asked)
            assert answer == asked or answer & 0xFFF in {one + 1 for one in known} | {1}

        check()
        assert guest.machine.alive


def fault(guest: SnpGuest, code: bytes) -> int | None:
    """Which exception this code ends in."""
    try:
        guest.bare.cpu.run(code, guest.bare.home)
    except CpuFault as raised:
        return raised.vector
    return None


def halted(guest: SnpGuest) -> bool:
    """Whether the only CPU has halted; while it waits for code it has not."""
    return "HLT=1" in guest.machine.qmp.hmp("info registers")
