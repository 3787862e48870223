"""The CPU of a simulated SEV guest: what it says of itself, and what its C-bit does.

The guest is a firmware of ours that runs a few instructions under page tables from here.
"APM" is AMD's Architecture Programmer's Manual, volume 2, publication 24593, and volume 3,
24594, appendix E.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.confidential import ID, VIOLATION
from qap.machine import Device, Machine, QemuDied, Spec
from qap.pci_bus import PciBus
from qap.under_test import build_under_test
from qap.virtio.driver import Driver
from qap.virtio.memory import GuestMemory
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.poll import poll_until
from qap.virtio.queue import Buffer
from qap.virtio.rng import Rng
from qap.x86_cpu import (
    GENERAL_PROTECTION,
    PAGE_FAULT,
    Cpu,
    Fault,
    Mode,
    PageFaultError,
    firmware_option,
)
from qap.x86_tables import C_BIT, ENTRIES, PAGE, SIZES, Shape, Tables, shift

LAST_LEAF = 0x8000_0000
SEV_LEAF = 0x8000_001F  # APM volume 3, E.4.17
SIZES_LEAF = 0x8000_0008
SEV_STATUS = 0xC001_0131  # APM 15.34.10
TABLES = 1 << 20
DATA = 1 << 24
MIB = 1 << 20
U32 = 0xFFFF_FFFF
MEMORY = 128
# A top entry that is not the firmware's.
FREE = {Mode.PAE: 1 << 30, Mode.LONG: 1 << 39, Mode.LA57: 1 << 48}


@dataclass
class Guest:
    """A machine whose CPU waits for code, with paging on."""

    machine: Machine
    mode: Mode
    cpu: Cpu
    tables: Tables
    home: int

    def shared(self, address: int) -> bool:
        """Whether QEMU has this page for shared."""
        seen = self.machine.qmp.execute("x-query-confidential-sim")
        spans = ((one["start"], one["start"] + one["size"]) for one in seen["shared"])
        return any(start <= address < end for start, end in spans)

    @property
    def protecting(self) -> bool:
        """Whether the guest has asked for protection."""
        return bool(self.machine.qmp.execute("x-query-confidential-sim")["protecting"])


def sim_options() -> list[str]:
    return ["-object", f"x-confidential-sim,id={ID}"]


@contextmanager
def started(
    folder: Path,
    mode: Mode,
    cpu: str = "max",
    *,
    board: str = "q35",
    sim: bool = True,
    devices: Sequence[Device] = (),
) -> Iterator[Guest]:
    """A machine with the simulation, or without."""
    machine = f"{board},confidential-guest-support={ID}" if sim else board
    extra = [*(sim_options() if sim else []), *firmware_option(folder)]
    extra += ["-global", "virtio-mmio.force-legacy=off"] if board == "microvm" else []
    spec = Spec(machine, cpu=cpu, memory=MEMORY, devices=devices, extra=extra, qtest=True)
    with Machine(build_under_test().path("qemu-system-x86_64"), spec) as vm:
        yield boot(vm, mode)


def boot(vm: Machine, mode: Mode) -> Guest:
    cpu, tables = Cpu(vm.qtest, mode), Tables(vm.qtest, mode, TABLES)
    home = tables.home()
    cpu.start(home)
    return Guest(vm, mode, cpu, tables, home)


MODES = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name)


@MODES
def test_cpu_says_that_it_runs_an_sev_guest(tmp_path: Path, mode: Mode) -> None:
    with started(tmp_path, mode) as guest:
        assert guest.cpu.cpuid(LAST_LEAF, guest.home)[0] >= SEV_LEAF
        assert guest.cpu.cpuid(SEV_LEAF, guest.home) == [1 << 1, C_BIT | 1 << 6, 0, 0]
        assert guest.cpu.cpuid(SIZES_LEAF, guest.home)[0] & 0xFF == C_BIT + 1
        assert guest.cpu.rdmsr(SEV_STATUS, guest.home) == 1


def test_sev_status_is_read_only(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG) as guest:
        with pytest.raises(Fault) as fault:
            guest.cpu.wrmsr(SEV_STATUS, 0, guest.home)
        assert fault.value.vector == GENERAL_PROTECTION
        assert guest.cpu.rdmsr(SEV_STATUS, guest.home) == 1


def test_without_the_simulation_bit_47_is_an_address_and_nothing_says_sev(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG, sim=False) as guest:
        assert guest.cpu.cpuid(LAST_LEAF, guest.home)[0] < SEV_LEAF
        assert guest.cpu.rdmsr(SEV_STATUS, guest.home) == 0
        guest.cpu.wrmsr(SEV_STATUS, 1, guest.home)
        cr3 = guest.tables.map(Shape(FREE[Mode.LONG], DATA, private=frozenset({1})))
        with pytest.raises(Fault) as fault:
            guest.cpu.load(FREE[Mode.LONG], cr3)
        assert fault.value.error & PageFaultError.RESERVED


@MODES
def test_first_private_mapping_starts_protection(tmp_path: Path, mode: Mode) -> None:
    """A C-bit on the way to a page is none on the page, and CPUID alone changes nothing."""
    with started(tmp_path, mode) as guest:
        guest.cpu.cpuid(SEV_LEAF, guest.home)
        way = frozenset(range(2, mode + 1))
        guest.cpu.load(FREE[mode], guest.tables.map(Shape(FREE[mode], DATA, private=way)))
        assert not guest.protecting
        leaf = frozenset({1})
        guest.cpu.load(FREE[mode], guest.tables.map(Shape(FREE[mode], DATA, private=leaf)))
        assert guest.protecting
        assert not guest.shared(DATA)
        assert not guest.shared(DATA + PAGE)


def test_shared_mappings_from_before_protection_still_count(tmp_path: Path) -> None:
    """A page that was touched before protection began is in the TLB, and touched again after."""
    # mov 0x80000, %eax; mov (%rbx), %ecx; pause; mov 0x80000, %eax
    touch = b"\x8b\x04\x25\x00\x00\x08\x00"
    with started(tmp_path, Mode.LONG) as guest:
        at = FREE[Mode.LONG]
        cr3 = guest.tables.map(Shape(at, DATA, private=frozenset({1})))
        guest.cpu.run(touch + b"\x8b\x0b" + b"\xf3\x90" + touch, cr3, {"rbx": at})
        assert guest.protecting
        assert guest.shared(0x80000)
        assert not guest.shared(0x81000)


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
        # The firmware waits for a mode again, and must not find the last one.
        vm = guest.machine
        vm.qtest.write(0x1000, bytes(64))
        vm.qmp.execute("system_reset")
        vm.qmp.wait_event("RESET", lambda data: True, 10)
        again = boot(vm, Mode.LONG)
        again.cpu.load(FREE[Mode.LONG], again.tables.map(Shape(FREE[Mode.LONG], DATA)))
        assert not again.protecting
        assert again.cpu.rdmsr(SEV_STATUS, again.home) == 1


@st.composite
def shapes(draw: st.DrawFn, mode: Mode) -> Shape:
    """Mappings of a page of our data that are right but for where their C-bits are."""
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
        def one(shape: Shape, page: int, value: int) -> None:
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

        one()


@pytest.mark.parametrize("bit", [48, 51])
@MODES
def test_bits_beyond_the_c_bit_stay_reserved(tmp_path: Path, mode: Mode, bit: int) -> None:
    with started(tmp_path, mode) as guest:
        for level in (1, 2):
            shape = Shape(FREE[mode], DATA, level, frozenset({level}), reserved=1 << bit)
            with pytest.raises(Fault) as fault:
                guest.cpu.load(FREE[mode], guest.tables.map(shape))
            assert fault.value.vector == PAGE_FAULT
            assert fault.value.error & PageFaultError.RESERVED
            assert fault.value.address == FREE[mode]
        assert not guest.protecting


@MODES
def test_wrong_tables_crash_nothing(tmp_path: Path, mode: Mode) -> None:
    """Bits are flipped in the entries on the way to an address: the CPU faults, or goes on."""
    bit = st.integers(0, 63).map(lambda number: 1 << number)
    noise = st.lists(st.one_of(st.just(0), bit, st.integers(0, (1 << 64) - 1)), max_size=mode)
    with started(tmp_path, mode) as guest:
        first = guest.tables.at

        @settings(max_examples=150, deadline=None, database=None)
        @given(shape=shapes(mode), noise=noise)
        def one(shape: Shape, noise: list[int]) -> None:
            guest.tables.at = first
            cr3 = guest.tables.map(shape, noise)
            try:
                guest.cpu.load(shape.virtual, cr3)
            except Fault as fault:
                assert fault.vector in (GENERAL_PROTECTION, PAGE_FAULT)

        one()
        assert guest.machine.alive


RINGS = 32 * MIB  # where the driver's memory is
ROOM = 8 * MIB
NEVER_S = 0.3


@pytest.mark.parametrize("iommu_platform", [True, False])
def test_device_gets_what_the_guest_shares_alone(tmp_path: Path, iommu_platform: bool) -> None:
    """Nothing from rings that are private; all of it once the guest has mapped them shared."""
    rng = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": iommu_platform}
    with started(tmp_path, Mode.LONG, devices=[rng]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        function = PciBus(vm.qtest).find(VENDOR_ID)
        driver = Driver(PciModern(function), GuestMemory(vm.qtest, RINGS, ROOM))
        assert driver.negotiate()
        random = Rng(driver)
        assert len(random.read(64)) == 64
        guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
        with pytest.raises(TimeoutError):
            random.read(64, timeout=NEVER_S)
        event = vm.qmp.wait_event(VIOLATION, lambda data: True, 10)
        assert event["device"] == "dut"
        assert RINGS <= event["address"] < RINGS + ROOM
        seen = vm.qmp.execute("x-query-confidential-sim")["violations"]
        assert [one["device"] for one in seen] == ["dut"]

        share_rings(guest)
        assert driver.negotiate()
        assert len(Rng(driver).read(64)) == 64
        assert vm.qmp.execute("x-query-confidential-sim")["violations"] == seen


def test_event_names_the_device_behind_virtio_mmio(tmp_path: Path) -> None:
    """Whose transport nobody has named."""
    rng = {"driver": "virtio-rng-device", "id": "dut", "iommu_platform": True}
    with started(tmp_path, Mode.LONG, board="microvm", devices=[rng]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        (slot,) = mmio_slots(vm.qtest)
        driver = Driver(slot, GuestMemory(vm.qtest, RINGS, ROOM))
        assert driver.negotiate()
        random = Rng(driver)
        assert len(random.read(64)) == 64
        guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
        with pytest.raises(TimeoutError):
            random.read(64, timeout=NEVER_S)
        assert vm.qmp.wait_event(VIOLATION, lambda data: True, 10)["device"] == "dut"


def share_rings(guest: Guest) -> None:
    """Map all that a driver uses as shared, and touch it."""
    at = FREE[Mode.LONG]
    for part in range(ROOM // SIZES[2]):
        shared = guest.tables.map(Shape(at, RINGS + part * SIZES[2], level=2))
        guest.cpu.touch(at, SIZES[2] // PAGE, shared)


def test_device_address_with_the_c_bit_is_private(tmp_path: Path) -> None:
    """Whatever the page is: a driver that bounces knows no such address."""
    rng = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": True}
    with started(tmp_path, Mode.LONG, devices=[rng]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
        share_rings(guest)
        function = PciBus(vm.qtest).find(VENDOR_ID)
        driver = Driver(PciModern(function), GuestMemory(vm.qtest, RINGS, ROOM))
        assert driver.negotiate()
        queue = driver.queue(0)
        driver.start()
        room = driver.memory.take(64)
        queue.add([Buffer(room | 1 << C_BIT, 64, writable=True)])
        driver.transport.notify(queue.index)
        seen = vm.qmp.wait_event(VIOLATION, lambda data: True, 10)
        assert (seen["device"], seen["address"], seen["direction"]) == ("dut", room, "write")


@dataclass
class Edu:
    """QEMU's teaching device, which copies memory into a buffer of its own and back.

    Its registers are those of docs/specs/edu.rst in QEMU's source.
    """

    machine: Machine
    registers: int

    def copy(self, source: int, target: int) -> None:
        """DMA of a page, once it is done; one of the addresses is in the device's buffer."""
        qtest, run, to_memory = self.machine.qtest, 1, 2
        for at, value in ((0x80, source), (0x88, target), (0x90, PAGE)):
            qtest.writeq(self.registers + at, value)
        qtest.writeq(self.registers + 0x98, run | (to_memory if source == EDU_BUFFER else 0))
        poll_until(
            lambda: not qtest.readq(self.registers + 0x98) & run or None,
            10,
            lambda: f"DMA from {source:#x} to {target:#x}",
        )


EDU_BUFFER = 0x40000
DMA = 48 * MIB


def test_dma_of_a_device_that_is_not_virtio_is_denied(tmp_path: Path) -> None:
    secret, shared, private = DMA, DMA + PAGE, DMA + 2 * PAGE
    with started(tmp_path, Mode.LONG, devices=[{"driver": "edu", "id": "dut"}]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        edu = Edu(vm, PciBus(vm.qtest).find(0x1234, 0x11E8).map_bars()[0].address)
        data = os.urandom(PAGE)
        vm.qtest.write(secret, data)
        edu.copy(secret, EDU_BUFFER)
        edu.copy(EDU_BUFFER, private)
        assert vm.qtest.read(private, PAGE) == data

        guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
        guest.cpu.load(at, guest.tables.map(Shape(at, shared)))
        vm.qtest.write(shared, bytes(PAGE))
        edu.copy(EDU_BUFFER, shared)
        assert vm.qtest.read(shared, PAGE) == data
        edu.copy(secret, EDU_BUFFER)
        seen = vm.qmp.wait_event(VIOLATION, lambda data: True, 10)
        assert (seen["device"], seen["address"], seen["direction"]) == ("dut", secret, "read")
        edu.copy(EDU_BUFFER, shared)
        assert vm.qtest.read(shared, PAGE) == bytes(PAGE)
        edu.copy(EDU_BUFFER, private)
        assert vm.qtest.read(private, PAGE) == data
        (counted,) = vm.qmp.execute("x-query-confidential-sim")["violations"]
        assert (counted["reads"], counted["writes"]) == (1, 1)


REFUSED = {
    "32 bits": ("qemu32", "needs a 64-bit CPU with RDRAND"),
    "no long mode": ("max,lm=off", "needs a 64-bit CPU with RDRAND"),
    "no RDRAND": ("qemu64", "needs a 64-bit CPU with RDRAND"),
    "40 bits": ("max,phys-bits=40", "phys-bits=40 leaves no room for the C-bit"),
    "47 bits": ("max,phys-bits=47", "phys-bits=47 leaves no room for the C-bit"),
}


@pytest.mark.parametrize(("cpu", "said"), REFUSED.values(), ids=REFUSED)
def test_cpu_that_can_not_is_refused(lab: Any, cpu: str, said: str) -> None:
    refused(lab, "q35", cpu, said)


def test_no_machine_is_refused(lab: Any) -> None:
    refused(lab, "none", "max", "can't be used with machine type none-machine")


def refused(lab: Any, machine: str, cpu: str, said: str) -> None:
    spec = Spec(f"{machine},confidential-guest-support={ID}", cpu=cpu, extra=sim_options())
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert died.value.status == 1
    assert said in died.value.said


@pytest.mark.skipif(not os.access("/dev/net/tun", os.W_OK), reason="/dev/net/tun is not for us")
def test_kernel_vhost_behind_a_netdev_is_refused(lab: Any) -> None:
    """-netdev makes it before there is a machine."""
    tap = "tap,id=net,script=no,downscript=no,vhost=on,vhostforce=on,vhostfd=0"
    extra = [*sim_options(), "-netdev", tap]
    spec = Spec(f"q35,confidential-guest-support={ID}", cpu="max", extra=extra)
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert "vhost can't be used with x-confidential-sim" in died.value.said


VIOMMUS = ["intel-iommu", "amd-iommu", "virtio-iommu-pci"]


@pytest.mark.parametrize("viommu", VIOMMUS)
def test_viommu_is_refused(lab: Any, viommu: str) -> None:
    machine = f"q35,confidential-guest-support={ID}"
    spec = Spec(machine, cpu="max", extra=sim_options(), devices=[{"driver": viommu}])
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert "A vIOMMU can't be used with x-confidential-sim" in died.value.said


@pytest.mark.parametrize("phys_bits", [48, 52])
def test_phys_bits_that_hold_the_c_bit_stay(tmp_path: Path, phys_bits: int) -> None:
    with started(tmp_path, Mode.LONG, f"max,phys-bits={phys_bits}") as guest:
        assert guest.cpu.cpuid(SIZES_LEAF, guest.home)[0] & 0xFF == phys_bits
