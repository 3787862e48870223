"""AMD's IOMMU reports an access that it refuses, and as what it was (AMD 2.5.3)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from qap.host.wait import poll_until
from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.iommu import amd
from qap.iommu.amd import IO_PAGE_FAULT, Amd
from qap.iommu.driver import FaultReason, IommuFault
from qap.iommu.table_driver import ENTRY
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.qtest import Qtest
from qap.verify.kit.lab import Lab
from qap.virtio.blk import SECTOR, BlkRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

BASE = 0xFED8_0000
DISK = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
BLK: Device = {
    "driver": "virtio-blk-pci",
    "drive": "disk0",
    "disable-legacy": "on",
    "iommu_platform": True,
}
BLK_ID = MODERN_DEVICE_ID + 2
# No IOVA is an address of memory, too. All of these are in one page table.
RINGS, DATA, TABLES = 16 * MIB, 32 * MIB, 64 * MIB
RINGS_IOVA, DATA_IOVA = 1 << 30, (1 << 30) + (1 << 20)
# The number that the library gives to the first one.
FIRST_DOMAIN = 1
REFUSED_S = 0.2
TOLD_S = 5.0


@dataclass
class Disk:
    """A disk behind an AMD IOMMU that is on, whose rings are mapped."""

    qtest: Qtest
    iommu: Amd
    driver: Driver
    queue: Queue

    def transfer(self, request: BlkRequest) -> None:
        """Have it read from its buffer (OUT), or write to it (IN); it breaks if it can't."""
        memory = self.driver.memory
        header = memory.put(request.to_bytes(16, "little"))
        chain = [
            Buffer(header, 16),
            Buffer(DATA_IOVA, SECTOR, writable=request == BlkRequest.IN),
            Buffer(memory.take(1), 1, writable=True),
        ]
        with suppress(TimeoutError):
            self.driver.serve(self.queue, chain, REFUSED_S)

    def assert_reported(self, faults: list[IommuFault], *, write: bool | None) -> None:
        """The faults are of the buffer, from its start on: QEMU accesses it word by word."""
        places = [fault.address for fault in faults]
        assert places == sorted(places) and places[0] == DATA_IOVA
        assert places[-1] < DATA_IOVA + SECTOR
        one = IommuFault(self.function.bdf, 0, FaultReason.MAPPING, write, IO_PAGE_FAULT)
        assert {replace(fault, address=0) for fault in faults} == {one}

    @property
    def function(self) -> Function:
        assert isinstance(self.driver.transport, PciModern)
        return self.driver.transport.function


def disk(lab: Lab, extra: Sequence[str] = (), **properties: object) -> Disk:
    blk = {**BLK, **properties}
    machine = lab.machine({"driver": "amd-iommu"}, blk, extra=extra, blockdevs=[DISK], qtest=True)
    bus = PciBus(machine.qtest)
    iommu = Amd(bus.find(amd.VENDOR_ID), GuestMemory(bus.qtest, TABLES, 4 * MIB))
    iommu.enable()
    function = bus.find(VENDOR_ID, BLK_ID)
    memory = GuestMemory(bus.qtest, RINGS, MIB, RINGS_IOVA)
    iommu.attach(function.bdf)
    iommu.map_memory(function.bdf, memory)
    driver = Driver(PciModern(function), memory)
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    return Disk(bus.qtest, iommu, driver, queue)


@pytest.mark.parametrize("request_type", [BlkRequest.IN, BlkRequest.OUT])
def test_access_where_nothing_is_mapped_is_reported(lab: Lab, request_type: BlkRequest) -> None:
    """In a table that has other entries. PR is 0, and RW means nothing."""
    here = disk(lab)
    here.transfer(request_type)
    here.assert_reported(here.iommu.faults(), write=None)


@pytest.mark.parametrize("request_type", [BlkRequest.IN, BlkRequest.OUT])
@pytest.mark.parametrize("cached", [False, True])
def test_access_that_a_mapping_forbids_is_reported(
    lab: Lab, request_type: BlkRequest, cached: bool
) -> None:
    """PR is 1, and RW says which it was; also if the IOMMU knows the mapping already."""
    here = disk(lab)
    writes = request_type == BlkRequest.IN
    allowed = {"readable": writes, "writable": not writes}
    here.iommu.map(here.function.bdf, DATA_IOVA, DATA, MIB, **allowed)
    if cached:
        here.transfer(BlkRequest.OUT if writes else BlkRequest.IN)
        assert here.iommu.faults() == []
    here.transfer(request_type)
    here.assert_reported(here.iommu.faults(), write=writes)


def test_access_of_a_device_that_reaches_nothing_is_reported(lab: Lab) -> None:
    """Its entry of the device table has no page table and allows nothing."""
    here = disk(lab)
    here.iommu.detach(here.function.bdf)
    here.transfer(BlkRequest.IN)
    first, *_ = here.iommu.faults()
    assert (first.bdf, first.code) == (here.function.bdf, IO_PAGE_FAULT)
    assert RINGS_IOVA <= first.address < RINGS_IOVA + MIB


def test_report_is_of_memory_and_names_the_domain(lab: Lab) -> None:
    """AMD 2.5.3: the domain in bits 47 to 32, and I, bit 51, for interrupts alone."""
    here = disk(lab)
    here.transfer(BlkRequest.IN)
    log = here.qtest.readq(BASE + amd.EVENT_LOG_BASE) & ~(0xFF << 56)
    low, high = ENTRY.unpack(here.qtest.read(log, ENTRY.size))
    assert (low >> 32, high) == (IO_PAGE_FAULT << 28 | FIRST_DOMAIN, DATA_IOVA)


def test_iothread_reports_what_it_is_refused(lab: Lab) -> None:
    """It must not wait for the main loop, which logs the event."""
    here = disk(lab, ["-object", "iothread,id=io0"], iothread="io0")
    here.transfer(BlkRequest.IN)
    told = poll_until(lambda: here.iommu.faults() or None, TOLD_S, lambda: "an event in the log")
    here.assert_reported(told, write=None)
