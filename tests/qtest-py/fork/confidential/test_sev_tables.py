"""Pages that a guest has decrypted and not accessed: what page tables in use share.

"APM" is AMD's Architecture Programmer's Manual, volume 2, publication 24593.
"""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.host.wait import poll_until
from qap.hw.x86_cpu import CR4_PAE, CpuFault, Mode, PageFaultError
from qap.hw.x86_page_tables import C_BIT, ENTRIES, LARGE, PAGE, PRESENT, SIZES, WRITABLE, Shape
from qap.hw.x86_svm import Vmcb
from qap.scenario.confidential import Shared
from qap.verify.kit.edu import EDU_BUFFER, Edu
from qap.verify.kit.sev_guest import DATA, FREE, SevGuest, started
from qap.verify.kit.simulated_guest import MEMORY

EDU = {"driver": "edu", "id": "dut"}
MIB = 1 << 20
USER = 1 << 2
# What the firmware's own mappings share: they have no C-bit. There are ROMs below.
FIRMWARE = range(MIB, 2 * MIB)
VMCB, HOST_STATE = 0x5000, 0x6000
SECOND_CPU = 0x5000
STARTED = 0x1200
READ = 0x80000
APIC = 0xFEE0_0000
MODES = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name)
LEVELS = pytest.mark.parametrize(
    ("mode", "level"),
    [(mode, level) for mode in Mode for level in SIZES if (mode, level) != (Mode.PAE, 3)],
    ids=lambda value: value.name if isinstance(value, Mode) else f"{SIZES[value] >> 10}K",
)


def protect(guest: SevGuest) -> None:
    """Let protection begin."""
    at = FREE[guest.mode]
    guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
    assert guest.protecting


def shape(mode: Mode, level: int, private: frozenset[int] = frozenset()) -> tuple[Shape, int]:
    """A mapping of a page of our data, and an address in its physical page."""
    physical = 2 * DATA & ~(SIZES[level] - 1)
    return Shape(FREE[mode], physical, level, private), 2 * DATA + 17 * PAGE % SIZES[level]


def denied(guest: SevGuest, address: int) -> bool:
    """Whether a device can't read a page."""
    edu = Edu.of(guest.machine)
    data = os.urandom(PAGE)
    guest.machine.qtest.write(address, data)
    before = Shared.of(guest.machine).violations.get("dut", (0, 0))
    edu.copy(address, EDU_BUFFER)
    edu.copy(EDU_BUFFER, READ)
    seen = Shared.of(guest.machine).violations.get("dut", (0, 0)) != before
    assert (guest.machine.qtest.read(READ, PAGE) == data) != seen
    return seen


@LEVELS
def test_page_that_is_mapped_shared_and_not_touched_is_shared(
    tmp_path: Path, mode: Mode, level: int
) -> None:
    """C-bits of upper levels say nothing."""
    upper = frozenset(range(level + 1, mode + 1))
    with started(tmp_path, mode, devices=[EDU]) as guest:
        protect(guest)
        mapping, address = shape(mode, level, upper)
        cr3 = guest.tables.map(mapping)
        assert not guest.shared(address)
        assert denied(guest, address)
        with guest.cpu.held(cr3):
            assert guest.shared(address)
            assert not denied(guest, address)
            if level < 3:
                assert denied(guest, mapping.physical + SIZES[level])
        assert guest.shared(address)


@LEVELS
def test_page_that_is_mapped_private_is_not(tmp_path: Path, mode: Mode, level: int) -> None:
    with started(tmp_path, mode, devices=[EDU]) as guest:
        protect(guest)
        mapping, address = shape(mode, level, frozenset({level}))
        with guest.cpu.held(guest.tables.map(mapping)):
            assert denied(guest, address)
            assert not guest.shared(address)


@MODES
def test_entry_that_is_not_present_shares_nothing(tmp_path: Path, mode: Mode) -> None:
    """Nor does what is below it."""
    with started(tmp_path, mode, devices=[EDU]) as guest:
        protect(guest)
        mapping, address = shape(mode, 1)
        for level in range(mode):
            with guest.cpu.held(guest.tables.map(mapping, [0] * level + [PRESENT])):
                assert not guest.shared(address)
                assert denied(guest, address)


# A page's level, the level of the entry with a reserved bit (APM 5.2.3, 5.3.3, 5.3.4), the bit.
RESERVED = [
    *((mode, 2, 2, 1 << 13) for mode in Mode),
    (Mode.LONG, 3, 3, 1 << 13),
    (Mode.PAE, 1, 3, 1 << 63),
    *((mode, 1, 4, LARGE) for mode in (Mode.LONG, Mode.LA57)),
    (Mode.LA57, 1, 5, LARGE),
]


@pytest.mark.parametrize(
    ("mode", "level", "where", "bit"),
    RESERVED,
    ids=lambda value: value.name if isinstance(value, Mode) else f"{value:#x}",
)
def test_entry_that_the_cpu_would_refuse_shares_nothing(
    tmp_path: Path, mode: Mode, level: int, where: int, bit: int
) -> None:
    with started(tmp_path, mode, devices=[EDU]) as guest:
        protect(guest)
        mapping, address = shape(mode, level)
        cr3 = guest.tables.map(mapping, [0] * (where - level) + [bit])
        with guest.cpu.held(cr3):
            assert not guest.shared(address)
            assert denied(guest, address)
        with pytest.raises(CpuFault) as fault:
            guest.cpu.load(mapping.virtual, cr3)
        assert fault.value.error & PageFaultError.RESERVED


def test_page_that_is_mapped_again_as_private_and_touched_is_private(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG, devices=[EDU]) as guest:
        protect(guest)
        mapping, address = shape(Mode.LONG, 1)
        with guest.cpu.held(guest.tables.map(mapping)):
            assert not denied(guest, address)
        again, address = shape(Mode.LONG, 1, frozenset({1}))
        guest.cpu.load(again.virtual, guest.tables.map(again))
        assert denied(guest, address)


@LEVELS
def test_all_that_is_mapped_shared_is_counted(tmp_path: Path, mode: Mode, level: int) -> None:
    with started(tmp_path, mode) as guest:
        memory = Shared.of(guest.machine)
        protect(guest)
        mapping, _ = shape(mode, level)
        end = min(mapping.physical + SIZES[level], MEMORY * MIB)
        with guest.cpu.held(guest.tables.map(mapping)):
            seen = Shared.of(guest.machine)
        low = [span for span in memory.ranges if span.stop <= MIB]
        ranges = [range(MIB, end)] if level == 3 else [FIRMWARE, range(mapping.physical, end)]
        assert seen.ranges == [*low, *ranges]
        assert seen.shared == sum(map(len, seen.ranges)) // PAGE
        assert seen.shared + seen.private == memory.shared


def test_tables_of_each_cpu_count(tmp_path: Path) -> None:
    """The first CPU maps nothing of the page, the second one has halted."""
    with started(tmp_path, Mode.LONG, devices=[EDU], options=["-smp", "2"]) as guest:
        protect(guest)
        mapping, address = shape(Mode.LONG, 1)
        assert denied(guest, address)
        start_second(guest, guest.tables.map(mapping))
        assert not denied(guest, address)


def start_second(guest: SevGuest, cr3: int) -> None:
    """Let the second CPU turn on paging in long mode with these tables, and halt."""
    qtest, apic = guest.machine.qtest, 2 * FREE[Mode.LONG]
    code = [
        b"\x66\xb8" + struct.pack("<I", CR4_PAE) + b"\x0f\x22\xe0",  # CR4
        b"\x66\xb8" + struct.pack("<I", cr3) + b"\x0f\x22\xd8",  # CR3
        # EFER: LME and NXE
        b"\x66\xb9\x80\x00\x00\xc0\x0f\x32\x66\x0d\x00\x09\x00\x00\x0f\x30",
        b"\x66\xb8\x01\x00\x01\x80\x0f\x22\xc0",  # CR0: PG, WP, PE
        b"\x66\xc7\x06" + struct.pack("<HI", STARTED, 1),  # movl $1, STARTED
        b"\xf4\xeb\xfd",  # 1: hlt; jmp 1b
    ]
    qtest.write(SECOND_CPU, b"".join(code))
    qtest.writel(STARTED, 0)
    # APM 16.5: a startup IPI to all others. movl $command, 0x300(%rbx)
    command = 0xC_4600 | SECOND_CPU // PAGE
    send = b"\xc7\x83\x00\x03\x00\x00" + struct.pack("<I", command)
    guest.cpu.run(send, guest.tables.map(Shape(apic, APIC, level=2)), {"rbx": apic})
    poll_until(lambda: qtest.readl(STARTED) or None, 10, lambda: "the second CPU to turn on paging")


@pytest.mark.parametrize("private", [False, True])
def test_nested_tables_of_a_guest_of_the_guest_count(tmp_path: Path, private: bool) -> None:
    """With nested paging, its own tables have no C-bit (APM 15.25)."""
    flags = PRESENT | WRITABLE | USER
    with started(tmp_path, Mode.LONG, devices=[EDU]) as guest:
        protect(guest)
        vmcb, address = guest_of_guest(guest), 2 * DATA
        leaf = address | flags | LARGE | (1 << C_BIT if private else 0)
        below = guest.tables.table({0: flags | LARGE, 9: leaf})
        nested = guest.tables.table({0: guest.tables.table({0: below | flags}) | flags})
        vmcb.prepare(guest.home, nested)
        with vmcb.held(guest.home):
            assert denied(guest, address) == private
            assert guest.shared(address) != private
            assert denied(guest, address + SIZES[2])


def test_tables_that_a_guest_of_the_guest_exits_to_count(tmp_path: Path) -> None:
    flags = PRESENT | WRITABLE | USER
    with started(tmp_path, Mode.LONG, devices=[EDU]) as guest:
        protect(guest)
        vmcb = guest_of_guest(guest)
        mapping, address = shape(Mode.LONG, 1)
        below = guest.tables.table({0: flags | LARGE})
        nested = guest.tables.table({0: guest.tables.table({0: below | flags}) | flags})
        vmcb.prepare(guest.home, nested)
        assert denied(guest, address)
        with vmcb.held(guest.tables.map(mapping)):
            assert not denied(guest, address)


def test_shadow_tables_of_a_guest_of_the_guest_count(tmp_path: Path) -> None:
    """Without nested paging, the tables that it uses have a C-bit."""
    with started(tmp_path, Mode.LONG, devices=[EDU]) as guest:
        protect(guest)
        vmcb = guest_of_guest(guest)
        mapping, address = shape(Mode.LONG, 1)
        vmcb.prepare(guest.tables.map(mapping))
        assert denied(guest, address)
        with vmcb.held(guest.home):
            assert not denied(guest, address)


def guest_of_guest(guest: SevGuest) -> Vmcb:
    """The means for a guest of the guest, with SVM turned on."""
    vmcb = Vmcb(guest.cpu, VMCB, HOST_STATE)
    vmcb.enable(guest.home)
    return vmcb


@MODES
def test_tables_that_hold_each_other_end(tmp_path: Path, mode: Mode) -> None:
    """Each entry of a table is itself, which makes 512 tables of each one at each level."""
    with started(tmp_path, mode, devices=[EDU]) as guest:
        protect(guest)
        address = 2 * DATA
        link = PRESENT if mode == Mode.PAE else PRESENT | WRITABLE
        itself = guest.tables.at
        top_entries = 1 if mode == Mode.PAE else ENTRIES
        guest.tables.table(dict.fromkeys(range(top_entries), itself | link | 1 << C_BIT))
        mapping, _ = shape(mode, 1, frozenset({1}))
        cr3 = guest.tables.map(mapping)
        index = struct.pack("<Q", itself | link)
        free = 1 if mode == Mode.PAE else ENTRIES - 1
        guest.machine.qtest.write(cr3 + 8 * free, index)
        with guest.cpu.held(cr3):
            assert denied(guest, address)
            assert not guest.shared(address)


@MODES
def test_tables_of_noise_crash_nothing(tmp_path: Path, mode: Mode) -> None:
    """Whatever the entries are, devices and the monitor get an answer."""
    entry = st.one_of(
        st.integers(0, (1 << 64) - 1),
        st.builds(
            lambda address, flags, c_bit: address << 12 | flags | 1 | c_bit << C_BIT,
            st.integers(0, 2 * MEMORY * MIB // PAGE),
            st.integers(0, 0xFFF),
            st.booleans(),
        ),
    )
    with started(tmp_path, mode, devices=[EDU]) as guest:
        protect(guest)
        edu, first = Edu.of(guest.machine), guest.tables.at
        free = 1 if mode == Mode.PAE else 8

        @settings(max_examples=25, deadline=None, database=None)
        @given(noise=st.lists(entry, min_size=4, max_size=4), top=entry)
        def check(noise: list[int], top: int) -> None:
            guest.tables.at = first
            words = dict.fromkeys(range(ENTRIES), 0) | {
                index: noise[index % 4] for index in range(ENTRIES)
            }
            below = guest.tables.table(words)
            cr3 = guest.tables.map(shape(mode, 1, frozenset({1}))[0])
            link = below | PRESENT if top % 2 else top
            guest.machine.qtest.write(cr3 + 8 * free, struct.pack("<Q", link))
            with guest.cpu.held(cr3):
                edu.copy(2 * DATA + 5 * PAGE, EDU_BUFFER)
                Shared.of(guest.machine)

        check()
        assert guest.machine.alive
