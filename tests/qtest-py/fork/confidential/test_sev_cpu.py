"""The CPU of a simulated SEV guest: CPUID, MSRs, and the effect of its C-bit.

"APM" is AMD's Architecture Programmer's Manual, volume 2, publication 24593, and volume 3,
24594, appendix E.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.hw.x86_cpu import GENERAL_PROTECTION, PAGE_FAULT, CpuFault, Mode, PageFaultError
from qap.hw.x86_page_tables import (
    C_BIT,
    ENTRIES,
    PAGE,
    PRESENT,
    SIZES,
    WRITABLE,
    Shape,
    shift,
)
from qap.verify.kit.sev_guest import DATA, FREE, boot, started
from qap.verify.kit.simulated_guest import MEMORY

LAST_LEAF = 0x8000_0000
SEV_LEAF = 0x8000_001F  # APM volume 3, E.4.17
SIZES_LEAF = 0x8000_0008
SEV_STATUS = 0xC001_0131  # APM 15.34.10
# QEMU's default under TCG.
PHYS_BITS = 40
MIB = 1 << 20
U32 = 0xFFFF_FFFF
MODES = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name)


@MODES
def test_cpu_says_that_it_runs_an_sev_guest(tmp_path: Path, mode: Mode) -> None:
    with started(tmp_path, mode) as guest:
        assert guest.cpu.cpuid(LAST_LEAF, guest.home)[0] >= SEV_LEAF
        assert guest.cpu.cpuid(SEV_LEAF, guest.home) == [1 << 1, C_BIT | 1 << 6, 0, 0]
        assert guest.cpu.rdmsr(SEV_STATUS, guest.home) == 1


def test_sev_status_is_read_only(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG) as guest:
        with pytest.raises(CpuFault) as fault:
            guest.cpu.wrmsr(SEV_STATUS, 0, guest.home)
        assert fault.value.vector == GENERAL_PROTECTION
        assert guest.cpu.rdmsr(SEV_STATUS, guest.home) == 1


def test_without_the_simulation_bit_47_is_an_address_and_nothing_says_sev(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG, sim=False) as guest:
        # QEMU 10.2 has a leaf after it, and so an empty one here.
        if guest.cpu.cpuid(LAST_LEAF, guest.home)[0] >= SEV_LEAF:
            assert guest.cpu.cpuid(SEV_LEAF, guest.home) == [0, 0, 0, 0]
        assert guest.cpu.rdmsr(SEV_STATUS, guest.home) == 0
        guest.cpu.wrmsr(SEV_STATUS, 1, guest.home)
        cr3 = guest.tables.map(Shape(FREE[Mode.LONG], DATA, private=frozenset({1})))
        with pytest.raises(CpuFault) as fault:
            guest.cpu.load(FREE[Mode.LONG], cr3)
        assert fault.value.error & PageFaultError.RESERVED


@MODES
def test_first_private_mapping_starts_protection(tmp_path: Path, mode: Mode) -> None:
    """A C-bit in an upper level is not the page's own C-bit; CPUID alone changes nothing."""
    with started(tmp_path, mode) as guest:
        guest.cpu.cpuid(SEV_LEAF, guest.home)
        variant = frozenset(range(2, mode + 1))
        guest.cpu.load(FREE[mode], guest.tables.map(Shape(FREE[mode], DATA, private=variant)))
        assert not guest.protecting
        leaf = frozenset({1})
        guest.cpu.load(FREE[mode], guest.tables.map(Shape(FREE[mode], DATA, private=leaf)))
        assert guest.protecting
        assert not guest.shared(DATA)
        assert not guest.shared(DATA + PAGE)


def test_shared_mappings_from_before_protection_still_count(tmp_path: Path) -> None:
    """The page is in the TLB from an access before protection, and is accessed again after it."""
    # mov (%rdx), %eax; mov (%rbx), %ecx; pause; mov (%rdx), %eax
    code = b"\x8b\x02" + b"\x8b\x0b" + b"\xf3\x90" + b"\x8b\x02"
    with started(tmp_path, Mode.LONG) as guest:
        private, shared = FREE[Mode.LONG], FREE[Mode.LONG] + PAGE
        table = guest.tables.at
        cr3 = guest.tables.map(Shape(private, DATA, private=frozenset({1})))
        guest.machine.qtest.writeq(table + 8, DATA + PAGE | PRESENT | WRITABLE)
        guest.machine.qtest.writeq(table + 16, DATA + 2 * PAGE | PRESENT | WRITABLE)
        guest.cpu.run(code, cr3, {"rbx": private, "rdx": shared})
        assert guest.protecting
        assert guest.shared(DATA + PAGE)
        assert not guest.shared(DATA + 2 * PAGE)


@MODES
def test_page_of_a_large_page_is_converted_when_it_is_touched(tmp_path: Path, mode: Mode) -> None:
    with started(tmp_path, mode) as guest:
        tables, cpu, at = guest.tables, guest.cpu, FREE[mode]
        cpu.load(at, tables.map(Shape(at, DATA, level=2, private=frozenset({2}))))
        cr3 = tables.map(Shape(at, DATA, level=2))
        for touched in (5, 6, 300):
            assert not guest.shared(DATA + touched * PAGE)
            cpu.load(at + touched * PAGE, cr3)
            assert guest.shared(DATA + touched * PAGE)
        assert not guest.shared(DATA)
        assert not guest.shared(DATA + 7 * PAGE)


def test_reset_ends_protection(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG) as guest:
        cr3 = guest.tables.map(Shape(FREE[Mode.LONG], DATA, private=frozenset({1})))
        guest.cpu.load(FREE[Mode.LONG], cr3)
        assert guest.protecting
        guest.reset_machine()
        again = boot(guest.machine, Mode.LONG)
        again.cpu.load(FREE[Mode.LONG], again.tables.map(Shape(FREE[Mode.LONG], DATA)))
        assert not again.protecting
        assert again.cpu.rdmsr(SEV_STATUS, again.home) == 1


@st.composite
def shapes(draw: st.DrawFn, mode: Mode) -> Shape:
    """Mappings of a page of our data; valid, with C-bits at any of the levels."""
    level = draw(st.integers(1, 2 if mode == Mode.PAE else 3))
    size = SIZES[level]
    physical = draw(st.integers(DATA, MEMORY * MIB - 1)) & ~(size - 1)
    top = draw(st.integers(1, 2 if mode == Mode.PAE else 255)) << shift(mode)
    virtual = top | draw(st.integers(0, (1 << shift(mode)) - 1)) & ~(size - 1)
    private = draw(st.frozensets(st.integers(1, mode)))
    return Shape(virtual, physical, level, private, mode != Mode.PAE and draw(st.booleans()))


@MODES
def test_c_bit_is_no_address_and_says_whose_a_page_is(tmp_path: Path, mode: Mode) -> None:
    with started(tmp_path, mode) as guest:
        first = guest.tables.at
        guest.cpu.load(
            FREE[mode], guest.tables.map(Shape(FREE[mode], DATA, private=frozenset({1})))
        )

        @settings(max_examples=60, deadline=None, database=None)
        @given(shape=shapes(mode), page=st.integers(0, ENTRIES - 1), value=st.integers(0, U32))
        def check(shape: Shape, page: int, value: int) -> None:
            guest.tables.at = first
            # Of a large page, a part that neither firmware nor tables need.
            part = page * PAGE % SIZES[shape.level] if shape.level < 3 else DATA + page * PAGE
            physical, virtual = shape.physical + part, shape.virtual + part
            cr3 = guest.tables.map(shape)
            guest.machine.qtest.writel(physical, value)
            assert guest.cpu.load(virtual, cr3) == value
            guest.cpu.store(virtual, value ^ U32, cr3)
            assert guest.machine.qtest.readl(physical) == value ^ U32
            assert guest.shared(physical) == (shape.level not in shape.private)

        check()


@pytest.mark.parametrize("bit", [48, 51])
@MODES
def test_bits_beyond_the_c_bit_stay_reserved(tmp_path: Path, mode: Mode, bit: int) -> None:
    with started(tmp_path, mode) as guest:
        for level in (1, 2):
            shape = Shape(FREE[mode], DATA, level, frozenset({level}), reserved=1 << bit)
            with pytest.raises(CpuFault) as fault:
                guest.cpu.load(FREE[mode], guest.tables.map(shape))
            assert fault.value.vector == PAGE_FAULT
            assert fault.value.error & PageFaultError.RESERVED
            assert fault.value.address == FREE[mode]
        assert not guest.protecting


@MODES
def test_wrong_tables_crash_nothing(tmp_path: Path, mode: Mode) -> None:
    """Bits are flipped in the entries for an address: the CPU faults or goes on."""
    bit = st.integers(0, 63).map(lambda number: 1 << number)
    noise = st.lists(st.one_of(st.just(0), bit, st.integers(0, (1 << 64) - 1)), max_size=mode)
    with started(tmp_path, mode) as guest:
        first = guest.tables.at

        @settings(max_examples=150, deadline=None, database=None)
        @given(shape=shapes(mode), noise=noise)
        def check(shape: Shape, noise: list[int]) -> None:
            guest.tables.at = first
            cr3 = guest.tables.map(shape, noise)
            try:
                guest.cpu.load(shape.virtual, cr3)
            except CpuFault as fault:
                assert fault.vector in (GENERAL_PROTECTION, PAGE_FAULT)

        check()
        assert guest.machine.alive


@pytest.mark.parametrize("phys_bits", [48, 52])
def test_phys_bits_that_hold_the_c_bit_stay(tmp_path: Path, phys_bits: int) -> None:
    with started(tmp_path, Mode.LONG, f"max,phys-bits={phys_bits}") as guest:
        assert guest.cpu.cpuid(SIZES_LEAF, guest.home)[0] & 0xFF == phys_bits


@pytest.mark.parametrize("phys_bits", [0, 36, 47])
@MODES
def test_c_bit_is_no_part_of_phys_bits(tmp_path: Path, mode: Mode, phys_bits: int) -> None:
    """0 stands for the number of any other CPU. Addresses that are too long stay reserved."""
    at, leaf = FREE[mode], frozenset({1})
    with started(tmp_path, mode, f"max,phys-bits={phys_bits}") as guest:
        size = guest.cpu.cpuid(SIZES_LEAF, guest.home)[0] & 0xFF
        assert size == (phys_bits or PHYS_BITS)
        shape = Shape(at, DATA, private=frozenset(range(1, mode + 1)), top=mode != Mode.PAE)
        guest.cpu.load(at, guest.tables.map(shape))
        assert guest.protecting
        if size < C_BIT:
            with pytest.raises(CpuFault) as fault:
                guest.cpu.load(at, guest.tables.map(Shape(at, DATA, 1, leaf, reserved=1 << size)))
            assert fault.value.error & PageFaultError.RESERVED
