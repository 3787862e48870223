"""VT-d's interrupt remapping lets a device interrupt where its table entry names it (VT-d 9.10)."""

from dataclasses import dataclass
from enum import IntEnum

import pytest

from qap.hw.pci import Bdf, Function
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import firmware_option
from qap.iommu.driver import source_id
from qap.iommu.vtd import BASE, Vtd
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.queue import Buffer

RINGS, TABLES = 16 * MIB, 32 * MIB
RNG_ID = MODERN_DEVICE_ID + 4
FIRST_VECTOR = 0x41

# VT-d 11.4: the registers of interrupt remapping.
GCMD, GSTS, IRTA = 0x18, 0x1C, 0xB8
SET_TABLE, ENABLE = 1 << 24, 1 << 25

# VT-d 5.1.2.2: a message that names entry 0 of the table. VT-d 7.1.3: what is reported otherwise.
REMAPPABLE = 0xFEE0_0010
INVALID_SOURCE = 0x26


class Validation(IntEnum):
    """VT-d 9.10, SVT."""

    NONE = 0
    SOURCE = 1
    BUS = 2


@dataclass(frozen=True)
class Place:
    """Where a device is.

    Attributes:
        between: bridges that it is behind.
        bus, addr: the device's place.
        requester: whom its messages come from: a bridge to conventional PCI takes them over, as
            function 0.0 of the bus behind it (PCIe-to-PCI bridge specification, 2.3).
        behind: the number of the bus that it is on.
    """

    between: tuple[Device, ...]
    bus: str
    addr: str
    requester: Bdf
    behind: int


PORT: Device = {"driver": "pcie-root-port", "id": "port0", "chassis": 1, "slot": 1}
TO_PCI: Device = {"driver": "pcie-pci-bridge", "id": "outer", "bus": "port0"}
NESTED: Device = {
    "driver": "pci-bridge",
    "id": "inner",
    "bus": "outer",
    "addr": "0x2",
    "chassis_nr": 7,
}
PLACES = {
    "root bus": Place((), "pcie.0", "0x10", Bdf(0, 0x10, 0), 0),
    "root port": Place((PORT,), "port0", "0x0", Bdf(1, 0, 0), 1),
    "one bridge": Place((PORT, TO_PCI), "outer", "0x3", Bdf(2, 0, 0), 2),
    "two bridges": Place((PORT, TO_PCI, NESTED), "inner", "0x3", Bdf(2, 0, 0), 3),
}


@dataclass
class Remapped:
    """A device whose messages go through the first entry of a remapping table."""

    machine: Machine
    vtd: Vtd
    function: Function
    requester: Bdf
    memory: GuestMemory
    table: int
    vector: int = FIRST_VECTOR

    def interrupts(self, validation: Validation, source: int, qualifier: int = 0) -> bool:
        """Have the device interrupt, with a table entry for these sources (VT-d 9.10).

        A message that does not reach the CPU has to be reported as a fault.
        """
        # One that is pending stays so: the CPU takes no interrupts.
        self.vector += 1
        high = source | qualifier << 16 | validation << 18
        self.machine.qtest.writeq(self.table + 8, high)
        self.machine.qtest.writeq(self.table, 1 | self.vector << 16)
        self._use()
        reached = f" {self.vector} " in self.machine.qmp.hmp("info lapic")
        faults = [(fault.bdf, fault.code) for fault in self.vtd.faults()]
        assert faults == ([] if reached else [(self.requester, INVALID_SOURCE)])
        return reached

    def _use(self) -> None:
        self.memory.give_back()
        transport = PciModern(self.function)
        driver = Driver(transport, self.memory)
        driver.negotiate()
        self.function.enable_msi_x(transport.bars, [(REMAPPABLE, 0)])
        queue = driver.queue(0)
        transport.set_queue_vector(0, 0)
        driver.start()
        driver.serve(queue, [Buffer(self.memory.take(16), 16, writable=True)])


def remapped(lab: Lab, place: Place) -> Remapped:
    rng = {"driver": "virtio-rng-pci", "disable-legacy": "on", "bus": place.bus, "addr": place.addr}
    spec = Spec(
        "q35",
        "tcg",
        devices=[{"driver": "intel-iommu", "intremap": "on"}, *place.between, rng],
        extra=firmware_option(lab.folder),
        qtest=True,
    )
    machine = lab.start("qemu-system-x86_64", spec)
    function = PciBus(machine.qtest).find(VENDOR_ID, RNG_ID)
    assert function.bdf.bus == place.behind
    tables = GuestMemory(machine.qtest, TABLES, MIB)
    vtd = Vtd(tables)
    table = tables.take(PAGE, PAGE)
    machine.qtest.writeq(BASE + IRTA, table)
    for bit in (SET_TABLE, ENABLE):
        machine.qtest.writel(BASE + GCMD, bit)
        assert machine.qtest.readl(BASE + GSTS) & bit
    memory = GuestMemory(machine.qtest, RINGS, MIB)
    return Remapped(machine, vtd, function, place.requester, memory, table)


each_place = pytest.mark.parametrize("name", PLACES)


@each_place
def test_range_of_buses_is_its_first_and_its_last(lab: Lab, name: str) -> None:
    """SVT 2: the first bus is in the upper half of the source ID, the last one in the lower.

    Linux gives the bus that a bridge's messages come from, and the bus that the device is on.
    """
    place = PLACES[name]
    here = remapped(lab, place)
    bus = place.requester.bus
    for first, last in ((bus, bus), (bus, place.behind), (bus, bus + 9), (0, bus)):
        assert here.interrupts(Validation.BUS, first << 8 | last), f"buses {first} to {last}"


@each_place
def test_device_on_another_bus_does_not_interrupt(lab: Lab, name: str) -> None:
    place = PLACES[name]
    here = remapped(lab, place)
    bus = place.requester.bus
    for first, last in ((bus + 1, bus + 1), (bus + 1, bus + 9), (bus + 1, bus)):
        assert not here.interrupts(Validation.BUS, first << 8 | last), f"buses {first} to {last}"


@each_place
def test_source_is_compared_as_its_qualifier_says(lab: Lab, name: str) -> None:
    """SVT 1, SQ: all bits; or all but bit 2; bits 2 and 1; bits 2 to 0."""
    place = PLACES[name]
    here = remapped(lab, place)
    source = source_id(place.requester)
    for qualifier, ignored in enumerate((0b000, 0b100, 0b110, 0b111)):
        for changed in (0, 1, 2, 4, 7, 8, 1 << 8):
            same = not changed & ~ignored
            assert here.interrupts(Validation.SOURCE, source ^ changed, qualifier) == same
    assert here.interrupts(Validation.NONE, source ^ 0xFFFF)
