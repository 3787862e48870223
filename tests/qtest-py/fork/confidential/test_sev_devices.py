"""Which memory of an SEV guest devices can access."""

import os
from pathlib import Path

import pytest

from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.hw.x86_page_tables import C_BIT, PAGE, SIZES, Shape
from qap.machine.guest_memory import MIB, GuestMemory
from qap.scenario.confidential import VIOLATION
from qap.verify.kit.edu import EDU_BUFFER, Edu
from qap.verify.kit.sev_guest import DATA, FREE, SevGuest, started
from qap.virtio.driver import Driver
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer
from qap.virtio.rng import Rng

RINGS = 32 * MIB  # where the driver's memory is
ROOM = 8 * MIB
NEVER_S = 0.3
DMA = 48 * MIB


@pytest.mark.parametrize("iommu_platform", [True, False])
def test_device_gets_what_the_guest_shares_alone(tmp_path: Path, iommu_platform: bool) -> None:
    """Nothing while the rings are private; everything after the guest has mapped them shared."""
    rng = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": iommu_platform}
    with started(tmp_path, Mode.LONG, devices=[rng]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        function = PciBus(vm.qtest).find(VENDOR_ID)
        driver = Driver(PciModern(function), GuestMemory(vm.qtest, RINGS, ROOM))
        guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
        assert driver.negotiate()
        with pytest.raises(TimeoutError):
            Rng(driver).read(64, timeout=NEVER_S)
        event = vm.qmp.wait_event(VIOLATION, lambda data: True, 10)
        assert event["device"] == "dut"
        assert RINGS <= event["address"] < RINGS + ROOM
        seen = vm.qmp.execute("x-query-confidential-sim")["violations"]
        assert [violation["device"] for violation in seen] == ["dut"]

        share_rings(guest)
        assert driver.negotiate()
        assert len(Rng(driver).read(64)) == 64
        assert vm.qmp.execute("x-query-confidential-sim")["violations"] == seen


def test_device_that_firmware_left_running_stops(tmp_path: Path) -> None:
    """Without an error: the device is not used until a driver has reset it."""
    rng = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": True}
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
        share_rings(guest)
        assert driver.negotiate()
        assert len(Rng(driver).read(64)) == 64
        assert vm.qmp.execute("x-query-confidential-sim")["violations"] == []


def test_event_names_the_device_behind_virtio_mmio(tmp_path: Path) -> None:
    """The transport has no id; a confidential machine makes it modern by default."""
    rng = {"driver": "virtio-rng-device", "id": "dut", "iommu_platform": True}
    with started(tmp_path, Mode.LONG, board="microvm", devices=[rng]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        (slot,) = mmio_slots(vm.qtest)
        driver = Driver(slot, GuestMemory(vm.qtest, RINGS, ROOM))
        guest.cpu.load(at, guest.tables.map(Shape(at, DATA, private=frozenset({1}))))
        assert driver.negotiate()
        with pytest.raises(TimeoutError):
            Rng(driver).read(64, timeout=NEVER_S)
        assert vm.qmp.wait_event(VIOLATION, lambda data: True, 10)["device"] == "dut"


def share_rings(guest: SevGuest) -> None:
    """Map all memory of a driver as shared, and access it."""
    at = FREE[Mode.LONG]
    for part in range(ROOM // SIZES[2]):
        shared = guest.tables.map(Shape(at, RINGS + part * SIZES[2], level=2))
        guest.cpu.touch(at, SIZES[2] // PAGE, shared)


def test_device_address_with_the_c_bit_is_private(tmp_path: Path) -> None:
    """For any page: a driver that uses bounce buffers has no such address."""
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


def test_dma_of_a_device_that_is_not_virtio_is_denied(tmp_path: Path) -> None:
    secret, shared, private = DMA, DMA + PAGE, DMA + 2 * PAGE
    with started(tmp_path, Mode.LONG, devices=[{"driver": "edu", "id": "dut"}]) as guest:
        vm, at = guest.machine, FREE[Mode.LONG]
        edu = Edu.of(vm)
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
