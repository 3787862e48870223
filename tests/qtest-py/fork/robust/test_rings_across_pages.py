"""What crosses a page of IOVAs goes on where the IOMMU has the next page, not behind the first.

An entry of a used ring does: it has 8 bytes, and the ring's address is a multiple of 4 (virtio 1.3,
2.7). Linux puts used rings of 512 entries or more across pages.
"""

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.iommu.find import find_iommu
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.lab import Lab
from qap.virtio.blk import REQUESTQ, SECTOR, BlkRequest
from qap.virtio.driver import MODERN, SERVED_S, Behaviour, Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.raw import Descriptor, RawSplitQueue
from qap.virtio.split import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from qap.virtio.transport import QueueAddresses

DISK = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
BLK: Device = {
    "driver": "virtio-blk-pci",
    "drive": "disk0",
    "bus": "port0",
    "disable-legacy": "on",
    "iommu_platform": True,
}
BLK_ID = MODERN_DEVICE_ID + 2
TABLES, RINGS, DATA = 64 * MIB, 16 * MIB, 32 * MIB
RINGS_IOVA, CROSSED_IOVA = 1 << 30, (1 << 30) + 2 * MIB
# The page behind the first one is somebody else's; the second one is behind that.
FIRST, BEHIND, SECOND = DATA, DATA + PAGE, DATA + 2 * PAGE
THEIRS = b"\xa5" * PAGE
VIOMMU = pytest.mark.parametrize("viommu", ["intel-iommu", "amd-iommu", "virtio-iommu"])


def request(memory: GuestMemory) -> list[Descriptor]:
    """A read of a sector: its descriptors, each of which leads to the next."""
    header = memory.put(BlkRequest.IN.to_bytes(16, "little"))
    return [
        Descriptor(header, 16, DESC_F_NEXT, 1),
        Descriptor(memory.take(SECTOR), SECTOR, DESC_F_NEXT | DESC_F_WRITE, 2),
        Descriptor(memory.take(1), 1, DESC_F_WRITE),
    ]


def started(lab: Lab, viommu: str, *bits: FeatureBit) -> Driver:
    """A driver of a disk, for which two pages are side by side at CROSSED_IOVA."""
    machine = lab.machine(BLK, viommu=viommu, blockdevs=[DISK], qtest=True)
    bus = PciBus(machine.qtest)
    iommu = find_iommu(bus, GuestMemory(bus.qtest, TABLES, 4 * MIB))
    iommu.enable()
    function = bus.find(VENDOR_ID, BLK_ID)
    memory = GuestMemory(bus.qtest, RINGS, MIB, RINGS_IOVA)
    iommu.attach(function.bdf)
    iommu.map_memory(function.bdf, memory)
    iommu.map(function.bdf, CROSSED_IOVA, FIRST, PAGE)
    iommu.map(function.bdf, CROSSED_IOVA + PAGE, SECOND, PAGE)
    bus.qtest.b64write(BEHIND, THEIRS)
    driver = Driver(PciModern(function), memory, Behaviour(supports=MODERN | mask(bits)))
    driver.negotiate()
    return driver


@VIOMMU
def test_entry_of_a_used_ring(lab: Lab, viommu: str) -> None:
    """Its id is on one page, and its len on the next one."""
    driver = started(lab, viommu)
    memory, qtest = driver.memory, driver.memory.qtest
    # flags and idx are before the first entry.
    used = CROSSED_IOVA + PAGE - 8
    areas = QueueAddresses(8, memory.take(8 * 16), memory.take(64), used)
    driver.transport.enable_queue(REQUESTQ, areas)
    driver.start()
    queue = RawSplitQueue(memory, REQUESTQ, areas)
    for index, descriptor in enumerate(request(memory)):
        # Not 0: an id that was not written shows.
        queue.put(index + 3, *descriptor._replace(next=descriptor.next + 3))
    queue.offer(3)
    driver.transport.notify(REQUESTQ)
    poll_until(
        lambda: qtest.readw(FIRST + PAGE - 6) == 1 or None,
        SERVED_S,
        lambda: "the disk to use the request",
    )
    assert qtest.b64read(BEHIND, PAGE) == THEIRS
    assert qtest.readl(FIRST + PAGE - 4) == 3
    assert qtest.readl(SECOND) == SECTOR + 1


@VIOMMU
def test_indirect_table(lab: Lab, viommu: str) -> None:
    """The address of the first buffer is on one page, and its length on the next one."""
    driver = started(lab, viommu, FeatureBit.INDIRECT_DESC)
    memory, qtest = driver.memory, driver.memory.qtest
    queue = driver.raw_queue(REQUESTQ, 8)
    driver.start()
    data = memory.read(queue.table(*request(memory)), 3 * 16)
    qtest.b64write(FIRST + PAGE - 8, data[:8])
    qtest.b64write(SECOND, data[8:])
    queue.put(0, CROSSED_IOVA + PAGE - 8, len(data), DESC_F_INDIRECT)
    queue.offer(0)
    driver.transport.notify(REQUESTQ)
    assert queue.wait_used(SERVED_S).length == SECTOR + 1
