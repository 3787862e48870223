"""The CPU of a simulated trust domain: CPUID, TDCALL and its metadata, and the shared bit.

Chapters are those of Intel's TDX Module ABI Reference Specification.
"""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.hw.trust_domain import (
    LEAF,
    NAMES,
    SELECTABLE,
    SHARED,
    TDCALL,
    Status,
    TdcallLeaf,
    TdField,
    VmcallFunction,
)
from qap.hw.x86_cpu import GENERAL_PROTECTION, CpuFault, Mode
from qap.hw.x86_page_tables import Shape
from qap.verify.kit.sev_guest import DATA, FREE
from qap.verify.kit.td_guest import TdGuest, td_started

INVALID_OPCODE = 6
SEV_LEAF, SEV_STATUS, SIZES_LEAF = 0x8000_001F, 0xC001_0131, 0x8000_0008
SEPT_VE_DISABLE = 1 << 28
U64 = (1 << 64) - 1
USER = 1 << 2


def test_cpu_says_that_it_is_of_a_trust_domain(tmp_path: Path) -> None:
    """CPUID leaf 0x21, and nothing of SEV; the CPU is one of Intel's."""
    with td_started(tmp_path) as guest:
        cpu, home = guest.bare.cpu, guest.td.cr3
        eax, ebx, ecx, edx = cpu.cpuid(LEAF, home)
        assert (eax, struct.pack("<III", ebx, edx, ecx)) == (0, b"IntelTDX    ")
        level, ebx, ecx, edx = cpu.cpuid(0, home)
        assert level >= LEAF
        assert struct.pack("<III", ebx, edx, ecx) == b"GenuineIntel"
        assert cpu.cpuid(SIZES_LEAF, home)[0] & 0xFF == 48
        assert cpu.cpuid(SEV_LEAF, home)[0] == 0
        assert cpu.rdmsr(SEV_STATUS, home) == 0
        assert not guest.protecting


def test_first_call_starts_protection_and_a_reset_ends_it(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        assert not guest.protecting
        assert guest.td.tdcall(TdcallLeaf.VP_INFO)["rax"] == Status.SUCCESS
        assert guest.protecting
        assert not guest.shared(DATA)
        assert not guest.reset().protecting


def test_info_says_what_the_domain_is(tmp_path: Path) -> None:
    """TDG.VP.INFO: the width of addresses, the attributes, and how many CPUs there are."""
    with td_started(tmp_path, extra=["-smp", "2,maxcpus=4"]) as guest:
        info = guest.td.tdcall(TdcallLeaf.VP_INFO, {"r10": U64, "r11": U64, "r12": 5})
        assert info["rax"] == Status.SUCCESS
        assert (info["rcx"], info["rdx"]) == (48, SEPT_VE_DISABLE)
        assert (info["r8"], info["r9"]) == (4 << 32 | 2, 0)
        assert (info["r10"], info["r11"], info["r12"]) == (0, 0, 5)


def test_no_exception_has_left_information(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        given_ = dict.fromkeys(("rcx", "rdx", "r8", "r9", "r10"), U64)
        left = guest.td.tdcall(TdcallLeaf.VP_VEINFO_GET, given_)
        assert left["rax"] == Status.NO_VALID_VE_INFO
        assert [left[name] for name in given_] == [0] * 5


@pytest.mark.parametrize(
    "rax", [9, 0xFFFF, 1 | 1 << 16, 1 | 1 << 24, 1 | 1 << 63, TdcallLeaf.VP_INFO | 1 << 32]
)
def test_wrong_leaf_is_refused(tmp_path: Path, rax: int) -> None:
    """No such leaf, no such version of it, and bits that must be 0."""
    with td_started(tmp_path) as guest:
        left = guest.td.tdcall(rax, {"rcx": 7, "r8": 8})
        assert left["rax"] == Status.OPERAND_INVALID_RAX
        assert (left["rcx"], left["r8"]) == (7, 8)


@pytest.mark.parametrize("prefix", [b"\x0f\x01\xcc", b"\xf2" + TDCALL, b"\xf0" + TDCALL])
def test_another_prefix_is_another_instruction(tmp_path: Path, prefix: bytes) -> None:
    with td_started(tmp_path) as guest:
        assert fault(guest, prefix) == INVALID_OPCODE
        assert fault(guest, TDCALL) is None


def test_outside_of_a_domain_there_is_no_such_instruction(tmp_path: Path) -> None:
    with td_started(tmp_path, sim="") as guest:
        assert fault(guest, TDCALL) == INVALID_OPCODE
        assert b"TDX" not in struct.pack("<4I", *guest.bare.cpu.cpuid(LEAF, guest.td.cr3))
    with td_started(tmp_path, sim="x-confidential-sim,id=cg0,mode=sev") as guest:
        assert fault(guest, TDCALL) == INVALID_OPCODE


def test_code_of_32_bits_can_not_call(tmp_path: Path) -> None:
    with td_started(tmp_path, mode=Mode.PAE) as guest:
        with pytest.raises(CpuFault) as raised:
            guest.bare.cpu.run(TDCALL, guest.bare.home, {"rax": TdcallLeaf.VP_INFO})
        assert (raised.value.vector, raised.value.error) == (GENERAL_PROTECTION, 0)
        assert not guest.protecting


def test_user_mode_can_not_call(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        at = FREE[Mode.LONG]
        guest.machine.qtest.write(DATA, TDCALL)
        # The entries of all levels have the user bit.
        cr3 = guest.bare.tables.map(Shape(at, DATA), [USER] * Mode.LONG)
        with pytest.raises(CpuFault) as raised:
            guest.bare.cpu.run_as_user(at, cr3)
        assert (raised.value.vector, raised.value.error) == (GENERAL_PROTECTION, 0)
        assert not guest.protecting


def test_page_mapped_shared_is_at_the_same_address(tmp_path: Path) -> None:
    """The bit is no address, at any level, and alone it shares nothing."""
    with td_started(tmp_path) as guest:
        cpu, at = guest.bare.cpu, FREE[Mode.LONG]
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        for levels in (frozenset({1}), frozenset({1, 2, 3, 4}), frozenset[int]()):
            # X86PageTables' C-bit is the same bit.
            cr3 = guest.bare.tables.map(Shape(at, DATA, private=levels, top=bool(levels)))
            guest.machine.qtest.writel(DATA, 0x1234 + len(levels))
            assert cpu.load(at, cr3) == 0x1234 + len(levels)
            assert not guest.shared(DATA)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (TdField.NUM_VCPUS, 2),
        (TdField.MAX_VCPUS, 4),
        (TdField.ATTRIBUTES, SEPT_VE_DISABLE),
        (TdField.GPAW, 0),
        (TdField.CONFIG_FLAGS, 0),
        (TdField.TOPOLOGY_ENUM_CONFIGURED, 1),
    ],
)
def test_metadata_can_be_read_alone(tmp_path: Path, field: TdField, value: int) -> None:
    with td_started(tmp_path, extra=["-smp", "2,maxcpus=4"]) as guest:
        read = guest.td.tdcall(TdcallLeaf.VM_RD, {"rdx": field, "r8": U64})
        assert (read["rax"], read["r8"]) == (Status.SUCCESS, value)
        assert write(guest, field, U64, U64) == (Status.FIELD_NOT_WRITABLE, 0)


@pytest.mark.parametrize(("field", "mask"), [(TdField.NOTIFY_ENABLES, 1), (TdField.TD_CTLS, 0xF)])
def test_metadata_is_written_bit_by_bit_until_a_reset(
    tmp_path: Path, field: TdField, mask: int
) -> None:
    """TDG.VM.WR returns the old value, and refuses other bits that would change."""
    with td_started(tmp_path) as guest:
        assert write(guest, field, 0, U64) == (Status.SUCCESS, 0)
        assert write(guest, field, mask, mask) == (Status.SUCCESS, 0)
        assert write(guest, field, 0, 0) == (Status.FIELD_NOT_WRITABLE, 0)
        assert write(guest, field, U64, U64) == (Status.FIELD_VALUE_NOT_VALID, 0)
        assert write(guest, field, 0, ~mask & U64) == (Status.FIELD_NOT_WRITABLE, 0)
        assert write(guest, field, U64, 1) == (Status.SUCCESS, mask)
        read = guest.td.tdcall(TdcallLeaf.VM_RD, {"rdx": field})
        assert (read["rax"], read["r8"]) == (Status.SUCCESS, mask)
        again = guest.reset().td.tdcall(TdcallLeaf.VM_RD, {"rdx": field})
        assert (again["rax"], again["r8"]) == (Status.SUCCESS, 0)


@pytest.mark.parametrize("bit", [24, 31, 34, 46, 49, 55, 62])
def test_identifier_of_more_than_one_element_is_refused(tmp_path: Path, bit: int) -> None:
    with td_started(tmp_path) as guest:
        asked = {"rdx": TdField.ATTRIBUTES | 1 << bit, "r8": U64}
        read = guest.td.tdcall(TdcallLeaf.VM_RD, asked)
        assert (read["rax"], read["r8"]) == (Status.FIELD_ID_INCORRECT, 0)


def test_unknown_metadata_is_refused(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        for field in (0, U64, TdField.ATTRIBUTES | 0x1000, 0x1F << 56):
            read = guest.td.tdcall(TdcallLeaf.VM_RD, {"rdx": field})
            assert read["rax"] == Status.FIELD_ID_INCORRECT
        read = guest.td.tdcall(TdcallLeaf.VM_RD, {"rdx": TdField.ATTRIBUTES, "rcx": 1})
        assert read["rax"] == Status.OPERAND_INVALID_RCX


def write(guest: TdGuest, field: int, value: int, mask: int) -> tuple[int, int]:
    """TDG.VM.WR: the status, and the old value."""
    left = guest.td.tdcall(TdcallLeaf.VM_WR, {"rdx": field, "r8": value, "r9": mask})
    return left["rax"], left["r8"]


def fault(guest: TdGuest, code: bytes) -> int | None:
    """Which exception this code ends in, with rax asking for TDG.VP.INFO."""
    try:
        guest.bare.cpu.run(code, guest.td.cr3, {"rax": TdcallLeaf.VP_INFO})
    except CpuFault as raised:
        return raised.vector
    return None


LEAVES = st.one_of(st.sampled_from(TdcallLeaf), st.integers(0, U64))
# These may end the guest, as they may end one on hardware.
FATAL = (VmcallFunction.REPORT_FATAL_ERROR, VmcallFunction.WRMSR)
FUNCTIONS = st.one_of(
    st.sampled_from([one for one in VmcallFunction if one not in FATAL]),
    st.integers(0, U64),
)
ADDRESSES = st.builds(
    lambda page, offset, high: page << 12 | offset | high,
    st.integers(0, 0x9_0000),
    st.sampled_from([0, 1, 2, 8, 0xFFF]),
    st.sampled_from([0, SHARED, 1 << 46, 1 << 63]),
)
VALUES = st.one_of(st.sampled_from([0, 1, 2, 4, 8, U64]), ADDRESSES, st.integers(0, U64))


def test_any_registers_are_answered(tmp_path: Path) -> None:
    """Whatever a guest calls with, QEMU lives on; ports, which end or reset it, are left out."""
    with td_started(tmp_path) as guest:

        @settings(max_examples=400, deadline=None, database=None)
        @given(
            leaf=LEAVES,
            function=FUNCTIONS,
            selected=st.one_of(st.just(SELECTABLE), VALUES),
            values=st.dictionaries(st.sampled_from(["rdx", *NAMES[8:]]), VALUES),
        )
        def check(leaf: int, function: int, selected: int, values: dict[str, int]) -> None:
            asked = {**values, "rcx": selected}
            if leaf == TdcallLeaf.VP_VMCALL:
                asked["r11"] = function
                if function in (VmcallFunction.IO, VmcallFunction.HLT, VmcallFunction.MMIO):
                    # A size that is wrong, or a halt for ever.
                    asked["r12"] = asked.get("r12", 0) | 16
            left = guest.td.tdcall(leaf, asked)
            if left["rax"] >> 63 and leaf not in (TdcallLeaf.VM_RD, TdcallLeaf.VM_WR):
                assert left["r15"] == values.get("r15", 0)

        check()
        assert guest.machine.alive
