"""An IOMMU knows a device by its bus and function, wherever it is and whenever it was plugged."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from qap.hw.pci import Bdf, Function
from qap.hw.pci_bus import PciBus
from qap.iommu.amd import Amd
from qap.iommu.driver import Iommu
from qap.iommu.find import find_iommu
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.queue import Buffer

RINGS, TABLES, IOVA = 16 * MIB, 80 * MIB, 1 << 30
SIZE = 64
RNG_ID = MODERN_DEVICE_ID + 4
REFUSED_S = 0.2
RNG: Device = {"driver": "virtio-rng-pci", "iommu_platform": True, "disable-legacy": "on"}
PORT1: Device = {"driver": "pcie-root-port", "id": "port1", "chassis": 2, "slot": 2}


@dataclass(frozen=True)
class Topology:
    """Where a device is.

    Attributes:
        between: bridges that it is behind.
        bus, addr: the device's place.
        bridge: a PCIe-to-PCI bridge makes its requests, as function 0.0 of the device's bus; or
            a conventional one does, as itself.
    """

    between: tuple[Device, ...]
    bus: str
    addr: str = "0x0"
    bridge: Literal["none", "pcie-to-pci", "conventional"] = "none"

    def requester(self, function: Function) -> Bdf:
        """Whom the IOMMU takes the device for (PCIe-to-PCI bridge specification, 2.3)."""
        if self.bridge == "pcie-to-pci":
            return Bdf(function.bdf.bus, 0, 0)
        return CONVENTIONAL if self.bridge == "conventional" else function.bdf


PCIE_TO_PCI: Device = {"driver": "pcie-pci-bridge", "id": "bridge", "bus": "port0"}
CONVENTIONAL = Bdf(0, 0x11, 0)
PCI_TO_PCI: Device = {
    "driver": "pci-bridge",
    "id": "bridge",
    "bus": "pcie.0",
    "addr": hex(CONVENTIONAL.device),
    "chassis_nr": 7,
}
TOPOLOGIES = {
    "root bus": Topology((), "pcie.0", "0x10"),
    "root port": Topology((), "port0"),
    "bridge behind a port": Topology((PCIE_TO_PCI,), "bridge", "0x3", "pcie-to-pci"),
    "conventional bridge": Topology((PCI_TO_PCI,), "bridge", "0x3", "conventional"),
}
# The bus that the IOMMU knows them by has the number 0 when QEMU makes the device.
BEHIND = ("root port", "bridge behind a port")
VIOMMUS: dict[str, Device] = {
    "intel": {"driver": "intel-iommu"},
    "amd": {"driver": "amd-iommu"},
    "virtio": {"driver": "virtio-iommu-pci", "id": "viommu", "addr": "0x1e"},
}


@dataclass
class Translated:
    """A device behind an IOMMU, at IOVAs, with no table entry yet."""

    iommu: Iommu
    function: Function
    memory: GuestMemory

    def is_served(self) -> bool:
        """Whether the device fills a buffer at an IOVA."""
        self.memory.give_back()
        driver = Driver(PciModern(self.function), self.memory)
        driver.negotiate()
        queue = driver.queue(0)
        driver.start()
        room = driver.memory.take(SIZE)
        with suppress(TimeoutError):
            driver.serve(queue, [Buffer(room, SIZE, writable=True)], REFUSED_S)
        return any(driver.memory.read(room, SIZE))

    def give_table(self, requester: Bdf) -> None:
        self.iommu.attach(requester)
        self.iommu.map_memory(requester, self.memory)


def cold_plugged(lab: Lab, viommu: str, topology: Topology, *, is_on: bool = True) -> Translated:
    place = {"bus": topology.bus, "addr": topology.addr}
    devices = (VIOMMUS[viommu], *topology.between, {**RNG, "id": "dut", **place})
    bus = PciBus(lab.machine(*devices, qtest=True).qtest)
    iommu = find_iommu(bus, GuestMemory(bus.qtest, TABLES, 4 * MIB))
    if is_on:
        iommu.enable()
    (function,) = [function for function in bus.scan() if function.device_id == RNG_ID]
    return Translated(iommu, function, GuestMemory(bus.qtest, RINGS, 4 * MIB, IOVA))


def assert_served_by_its_own_table(lab: Lab, viommu: str, topology: Topology) -> None:
    here = cold_plugged(lab, viommu, topology)
    here.give_table(topology.requester(here.function))
    assert here.is_served()


def assert_not_served_by_another_table(lab: Lab, viommu: str, topology: Topology) -> None:
    """It has no table, and the device with its slot on bus 0 has one."""
    here = cold_plugged(lab, viommu, topology)
    slot = topology.requester(here.function)
    here.give_table(Bdf(0, slot.device, slot.function))
    assert not here.is_served()


@pytest.mark.parametrize("place", BEHIND)
def test_cold_plugged_device_has_its_own_tables(lab: Lab, place: str) -> None:
    """AMD 2.2.2.1: the device ID, bus and function, is the index in the device table."""
    assert_served_by_its_own_table(lab, "amd", TOPOLOGIES[place])


@pytest.mark.parametrize("place", BEHIND)
def test_device_without_a_table_entry_is_not_served_by_that_of_another(
    lab: Lab, place: str
) -> None:
    """Here by that of the host bridge, which has the same slot on bus 0."""
    assert_not_served_by_another_table(lab, "amd", TOPOLOGIES[place])


@pytest.mark.parametrize("place", BEHIND)
def test_table_entry_that_is_older_than_the_iommus_service_counts(lab: Lab, place: str) -> None:
    """AMD 2.4.8, INVALIDATE_IOMMU_ALL: it stands for an invalidation of each entry."""
    here = cold_plugged(lab, "amd", TOPOLOGIES[place], is_on=False)
    here.give_table(TOPOLOGIES[place].requester(here.function))
    here.iommu.enable()
    assert here.is_served()


@pytest.mark.parametrize("place", ["root bus", *BEHIND])
def test_device_without_a_table_entry_reaches_no_memory(lab: Lab, place: str) -> None:
    """Its entry has no tables and allows nothing, and was there before the IOMMU was on."""
    here = cold_plugged(lab, "amd", TOPOLOGIES[place])
    assert not replace(here, memory=GuestMemory(here.memory.qtest, RINGS, 4 * MIB)).is_served()


@pytest.mark.parametrize("place", ["root bus", "conventional bridge"])
@pytest.mark.parametrize("viommu", VIOMMUS)
def test_device_that_bus_0_knows_has_its_own_tables(lab: Lab, viommu: str, place: str) -> None:
    assert_served_by_its_own_table(lab, viommu, TOPOLOGIES[place])


@pytest.mark.parametrize("place", BEHIND)
@pytest.mark.parametrize("viommu", ["intel", "virtio"])
def test_other_iommus_know_it_too(lab: Lab, viommu: str, place: str) -> None:
    assert_served_by_its_own_table(lab, viommu, TOPOLOGIES[place])


@pytest.mark.parametrize("place", BEHIND)
def test_vtd_takes_no_device_for_another(lab: Lab, place: str) -> None:
    assert_not_served_by_another_table(lab, "intel", TOPOLOGIES[place])


def test_devices_behind_two_ports_have_an_address_space_each(lab: Lab) -> None:
    """Both have slot 0 of a bus that has no number yet; one of them has a table."""
    first, second = ({**RNG, "id": f"dut{number}", "bus": f"port{number}"} for number in (0, 1))
    bus = PciBus(lab.machine(VIOMMUS["amd"], PORT1, first, second, qtest=True).qtest)
    iommu = find_iommu(bus, GuestMemory(bus.qtest, TABLES, 4 * MIB))
    iommu.enable()
    devices = [function for function in bus.scan() if function.vendor_id == VENDOR_ID]
    spaces = [
        Translated(iommu, function, GuestMemory(bus.qtest, RINGS + 4 * MIB * number, 4 * MIB, IOVA))
        for number, function in enumerate(devices)
    ]
    spaces[0].give_table(devices[0].bdf)
    assert [space.is_served() for space in spaces] == [True, False]


def test_device_pages_are_dropped_when_its_driver_says_so(lab: Lab) -> None:
    """AMD 2.4.4, INVALIDATE_IOTLB_PAGES: with the size bit, more than a page of one device."""
    here = cold_plugged(lab, "amd", TOPOLOGIES["root bus"])
    assert isinstance(here.iommu, Amd)
    requester = here.function.bdf
    here.give_table(requester)
    assert here.is_served()
    moved = GuestMemory(here.memory.qtest, RINGS + 4 * MIB, 4 * MIB, IOVA)
    here.iommu.remap(requester, IOVA, RINGS + 4 * MIB, 4 * MIB)
    here.iommu.invalidate_device_pages(requester)
    assert replace(here, memory=moved).is_served()
