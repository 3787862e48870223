"""Python vhost-user back-ends behind virtual IOMMUs: which mappings they are told."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from qap.host.wait import poll_until
from qap.hw.pci import Bdf, Function, PciError
from qap.hw.pci_bus import PciBus
from qap.iommu.amd import Amd
from qap.iommu.ats import enable_ats
from qap.iommu.driver import Iommu, IommuError
from qap.iommu.find import find_iommu
from qap.iommu.vtd import Vtd
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import pattern
from qap.vhost_user.memory.iotlb import IotlbType
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer, Queue

IOMMUS: dict[str, Device] = {
    "intel-iommu": {"driver": "intel-iommu"},
    "intel-iommu caching": {"driver": "intel-iommu", "caching-mode": True},
    "device TLBs": {"driver": "intel-iommu", "device-iotlb": True},
    "virtio-iommu": {"driver": "virtio-iommu-pci", "id": "viommu"},
    "amd-iommu": {"driver": "amd-iommu"},
}
HOST_BRIDGE = Bdf(0, 0, 0)
TABLES, RINGS, DATA = 16 * MIB, 32 * MIB, 64 * MIB
RINGS_IOVA, DATA_IOVA = 1 << 30, 5 << 28
SIZE = 64
# The first domain that the driver makes.
OWN_DOMAIN = 1


@dataclass
class Behind:
    """A back-end behind an IOMMU that translates, and its device, hot-plugged.

    Attributes:
        memory: for the driver's rings.
    """

    backend: Backend
    bus: PciBus
    iommu: Iommu
    function: Function
    memory: GuestMemory
    driver: Driver

    def use_ats(self, *, told: bool = True) -> None:
        """Enable the device's ATS; `told` says whether to tell the IOMMU."""
        if told:
            assert isinstance(self.iommu, Vtd)
            self.iommu.use_device_tlb(self.function.bdf)
        enable_ats(
            next(function for function in self.bus.scan() if function.bdf == HOST_BRIDGE),
            self.function,
        )

    def start(self) -> Queue:
        """Map the rings and start the device; returns when the back-end has them."""
        self.iommu.attach(self.function.bdf)
        self.iommu.map_memory(self.function.bdf, self.memory)
        self.driver.negotiate()
        queue = self.driver.queue(0)
        self.driver.start()
        self.backend.wait_for(FrontendRequest.IOTLB_MSG, 10)
        return queue

    def reaches(self, queue: Queue, buffer: GuestMemory) -> bool:
        """Whether the back-end fills a buffer at the start of this memory, apart from its rings."""
        buffer.give_back()
        at = buffer.take(SIZE)
        before = len(self.backend.ring_errors)
        queue.add([Buffer(at, SIZE, writable=True)])
        self.driver.transport.notify(queue.index)

        def done() -> bool | None:
            return True if queue.take_used() or self.backend.ring_errors[before:] else None

        poll_until(done, 10, lambda: "the back-end to serve the buffer or to fail")
        return buffer.read(at, SIZE) == pattern(SIZE)

    def stop(self) -> None:
        """Stop the device; returns when the back-end has handled all messages."""
        before = len(self.backend.received)
        self.driver.transport.reset()
        self.backend.wait_for(FrontendRequest.GET_VRING_BASE, 10, since=before)

    def told(self, kind: IotlbType) -> list[tuple[int, int, int]]:
        """Start, end and user address of each IOTLB message of a type."""
        words = [message.words for message in self.backend.requests(FrontendRequest.IOTLB_MSG)]
        return [(iova, iova + size, user) for iova, size, user, _, type_ in words if type_ == kind]

    def invalidated(self, start: int, size: int) -> list[int]:
        """Numbers, from 0, of the pages in a range that were invalidated at the back-end."""
        gone = self.told(IotlbType.INVALIDATE)
        pages = range(start, start + size, PAGE)
        return [
            number
            for number, page in enumerate(pages)
            if any(first <= page < end for first, end, _ in gone)
        ]


@pytest.fixture
def behind(lab: Lab) -> Callable[..., Behind]:
    def plug(kind: str, **properties: object) -> Behind:
        backend = lab.backend("vhost-user-rng", access_platform=True)
        machine = lab.machine(IOMMUS[kind], qtest=True)
        bus = PciBus(machine.qtest)
        before = {function.bdf for function in bus.scan()}
        iommu = find_iommu(bus, GuestMemory(machine.qtest, TABLES, 4 * MIB))
        iommu.enable()
        machine.plug(lab.device("vhost-user-rng", backend, **properties))
        (function,) = [function for function in bus.scan() if function.bdf not in before]
        memory = GuestMemory(machine.qtest, RINGS, 4 * MIB, RINGS_IOVA)
        return Behind(backend, bus, iommu, function, memory, Driver(PciModern(function), memory))

    return plug


each_iommu = pytest.mark.parametrize("kind", IOMMUS)


@each_iommu
def test_back_end_is_told_where_the_rings_are(behind: Callable[..., Behind], kind: str) -> None:
    """As user addresses of the front-end, for which it has the memory table."""
    here = behind(kind)
    here.start()
    _, _, *table = here.backend.requests(FrontendRequest.SET_MEM_TABLE)[-1].words
    regions = [table[at : at + 4] for at in range(0, len(table), 4)]
    updates = here.told(IotlbType.UPDATE)
    assert any(start <= RINGS_IOVA < end for start, end, _ in updates)
    for start, end, user in updates:
        physical = here.memory.physical(start)
        assert [user] == [
            region_user + physical - guest
            for guest, size, region_user, _ in regions
            if guest <= physical and physical + end - start <= guest + size
        ]


@each_iommu
def test_back_end_is_told_of_an_unmapping(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    here.start()
    size = here.memory.size
    assert here.invalidated(RINGS_IOVA, size) == []
    here.iommu.unmap(here.function.bdf, RINGS_IOVA, size)
    here.stop()
    pages = range(size // PAGE)
    assert here.invalidated(RINGS_IOVA, size) == list(pages)


@each_iommu
def test_back_end_is_told_when_its_device_loses_its_domain(
    behind: Callable[..., Behind], kind: str
) -> None:
    here = behind(kind)
    here.start()
    here.iommu.detach(here.function.bdf)
    here.stop()
    pages = range(here.memory.size // PAGE)
    assert here.invalidated(RINGS_IOVA, here.memory.size) == list(pages)


@each_iommu
def test_back_end_reaches_only_what_is_mapped(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    queue = here.start()
    buffer = GuestMemory(here.bus.qtest, DATA, 2 * MIB, DATA_IOVA)
    here.iommu.map_memory(here.function.bdf, buffer)
    assert here.reaches(queue, buffer)
    assert here.iommu.faults() == []
    here.iommu.unmap(here.function.bdf, DATA_IOVA, buffer.size)
    assert not here.reaches(queue, buffer)
    faulting = {(fault.bdf, fault.address) for fault in here.iommu.faults()}
    assert faulting == {(here.function.bdf, DATA_IOVA)}


def test_back_end_forgets_what_amd_iommu_unmaps(behind: Callable[..., Behind]) -> None:
    """AMD I/O Virtualization Technology, 2.4.3: INVALIDATE_IOMMU_PAGES."""
    here = behind("amd-iommu")
    queue = here.start()
    buffer = GuestMemory(here.bus.qtest, DATA, 2 * MIB, DATA_IOVA)
    here.iommu.map_memory(here.function.bdf, buffer)
    assert here.reaches(queue, buffer)
    here.iommu.unmap(here.function.bdf, DATA_IOVA, buffer.size)
    assert not here.reaches(queue, buffer)


def test_back_end_forgets_the_addresses_of_an_amd_iommu_that_was_off(
    behind: Callable[..., Behind],
) -> None:
    """It has kept that a ring at a physical address is there, which no table says."""
    here = behind("amd-iommu")
    here.iommu.disable()
    physical = GuestMemory(here.bus.qtest, RINGS, 4 * MIB)
    driver = Driver(PciModern(here.function), physical)
    driver.negotiate()
    driver.queue(0)
    driver.start()
    here.backend.wait_for(FrontendRequest.IOTLB_MSG, 10)
    here.iommu.enable()
    here.stop()
    pages = range(physical.size // PAGE)
    assert here.invalidated(RINGS, physical.size) == list(pages)


def test_back_end_is_told_of_the_very_pages_that_amd_iommu_invalidates(
    behind: Callable[..., Behind],
) -> None:
    """Of its own domain, and no others: a page, and then 8."""
    here = behind("amd-iommu")
    here.start()
    iommu = here.iommu
    assert isinstance(iommu, Amd)
    iommu.invalidate_pages(OWN_DOMAIN, RINGS_IOVA + PAGE)
    iommu.invalidate_pages(OWN_DOMAIN, RINGS_IOVA + 16 * PAGE, order=3)
    iommu.invalidate_pages(OWN_DOMAIN + 1, RINGS_IOVA + 64 * PAGE)
    here.stop()
    assert here.invalidated(RINGS_IOVA, here.memory.size) == [1, *range(16, 24)]


@pytest.mark.parametrize(("kind", "ats"), [("intel-iommu", False), ("device TLBs", True)])
def test_back_end_is_told_of_the_very_pages_that_go(
    behind: Callable[..., Behind], kind: str, ats: bool
) -> None:
    """7 pages from an odd one on, which is no single block of a descriptor."""
    here = behind(kind, ats=ats)
    if ats:
        here.use_ats()
    here.start()
    here.iommu.map(here.function.bdf, DATA_IOVA, DATA, 2 * MIB)
    here.iommu.unmap(here.function.bdf, DATA_IOVA + 3 * PAGE, 7 * PAGE)
    here.stop()
    assert here.invalidated(DATA_IOVA, 2 * MIB) == list(range(3, 10))


@pytest.mark.parametrize("told", [True, False])
def test_back_end_with_ats_is_told_only_by_device_tlb_invalidation(
    behind: Callable[..., Behind], told: bool
) -> None:
    here = behind("device TLBs", ats=True)
    here.use_ats(told=told)
    here.start()
    here.iommu.unmap(here.function.bdf, RINGS_IOVA, here.memory.size)
    here.stop()
    pages = range(here.memory.size // PAGE if told else 0)
    assert here.invalidated(RINGS_IOVA, here.memory.size) == list(pages)


def test_device_tlbs_need_an_iommu_and_a_device_that_have_them(
    behind: Callable[..., Behind],
) -> None:
    here = behind("intel-iommu")
    with pytest.raises(IommuError, match="knows no device TLBs"):
        here.use_ats()
    with pytest.raises(PciError, match=r"01:00\.0 has no ATS"):
        here.use_ats(told=False)
