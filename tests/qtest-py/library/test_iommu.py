"""Devices behind virtual IOMMUs: what they can access, and which faults are reported."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import pytest

from qap.hw.pci import Bdf, Function
from qap.hw.pci_bus import PciBus
from qap.iommu.amd import Amd
from qap.iommu.driver import FaultReason, Iommu, IommuFault
from qap.iommu.find import find_iommu
from qap.iommu.virtio_iommu import VirtioIommu
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit
from qap.verify.kit.lab import Lab, MachineOptions
from qap.virtio import blk
from qap.virtio.blk import SECTOR, Blk
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer
from qap.virtio.rng import Rng

IOMMUS: dict[str, Device] = {
    "intel-iommu": {"driver": "intel-iommu"},
    "intel-iommu caching": {"driver": "intel-iommu", "caching-mode": True},
    "intel-iommu 39 bits": {"driver": "intel-iommu", "aw-bits": 39},
    "virtio-iommu": {"driver": "virtio-iommu-pci", "id": "viommu"},
    "amd-iommu": {"driver": "amd-iommu"},
}
PORT1: Device = {"driver": "pcie-root-port", "id": "port1", "chassis": 2, "slot": 2}
RNG: Device = {"driver": "virtio-rng-pci", "id": "dut", "bus": "port0", "iommu_platform": True}
RNG1: Device = {**RNG, "id": "dut1", "bus": "port1"}
BEHIND_PORT0 = Bdf(1, 0, 0)

# Guest physical memory ends below every IOVA, so that no address is valid as both.
RINGS, DATA, TABLES = 16 * MIB, 32 * MIB, 80 * MIB
RINGS_IOVA, DATA_IOVA = 1 << 30, 5 << 28
# What is reported of a device without a domain. AMD's table has an entry that allows nothing.
NO_DOMAIN = {VirtioIommu: FaultReason.UNKNOWN, Amd: FaultReason.MAPPING}
SIZE = 64
REFUSED_S = 0.2


@dataclass
class Behind:
    """A machine with an IOMMU that translates."""

    machine: Machine
    bus: PciBus
    iommu: Iommu

    def memory(self, base: int, iova: int | None = None, size: int = 4 * MIB) -> GuestMemory:
        return GuestMemory(self.machine.qtest, base, size, iova)

    def function(self, bdf: Bdf) -> Function:
        return next(function for function in self.bus.scan() if function.bdf == bdf)

    def plug(self, device: Device) -> Function:
        """Hot-plug a device; returns its new function."""
        before = {function.bdf for function in self.bus.scan()}
        self.machine.plug(device)
        (new,) = [function for function in self.bus.scan() if function.bdf not in before]
        return new

    def driver(self, function: Function, base: int = RINGS) -> Driver:
        """A negotiated driver in memory at IOVAs, for which the function gets a domain."""
        memory = self.memory(base, RINGS_IOVA)
        self.iommu.attach(function.bdf)
        self.iommu.map_memory(function.bdf, memory)
        return again(function, memory)

    def expect_fault(self, bdf: Bdf, address: int, *, write: bool, mapped: bool) -> None:
        """The IOMMU has reported exactly this fault since the last call.

        Args:
            mapped: whether there is a mapping, which doesn't allow the access.
        """
        faults = self.iommu.faults()
        reason = FaultReason.MAPPING
        if isinstance(self.iommu, Amd | VirtioIommu):
            # The kind of access is told only if there is a mapping: AMD 2.5.3, and QEMU's choice
            # of what virtio 1.3, 5.13.6.9 leaves open.
            told = write if mapped else None
            assert faults[0] == IommuFault(bdf, address, reason, told, 2)
            assert {(fault.bdf, fault.reason, fault.write) for fault in faults} == {
                (bdf, reason, told)
            }
        else:
            assert faults == [IommuFault(bdf, address, reason, write, 5 if write else 6)]
        assert self.iommu.faults() == []


def again(function: Function, memory: GuestMemory) -> Driver:
    """A new driver for the device, in memory that is no longer in use."""
    memory.give_back()
    driver = Driver(PciModern(function), memory)
    driver.negotiate()
    return driver


def drawn(device: Rng, buffer: GuestMemory) -> bool:
    """Whether the device fills a buffer at the start of this memory, apart from its rings."""
    buffer.give_back()
    at = buffer.take(SIZE)
    with suppress(TimeoutError):
        device.driver.serve(device.requestq, [Buffer(at, SIZE, writable=True)], REFUSED_S)
    return any(buffer.read(at, SIZE))


@pytest.fixture
def behind(lab: Lab) -> Callable[..., Behind]:
    def start(kind: str, *devices: Device, **options: Unpack[MachineOptions]) -> Behind:
        options["qtest"] = True
        machine = lab.machine(IOMMUS[kind], *devices, **options)
        bus = PciBus(machine.qtest)
        iommu = find_iommu(bus, GuestMemory(machine.qtest, TABLES, 4 * MIB))
        iommu.enable()
        return Behind(machine, bus, iommu)

    return start


each_iommu = pytest.mark.parametrize("kind", IOMMUS)
each_paged = pytest.mark.parametrize("kind", [kind for kind in IOMMUS if "virtio" not in kind])


@each_iommu
def test_device_is_served_through_iovas(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    assert device.driver.has(FeatureBit.ACCESS_PLATFORM)
    assert len({device.read(SIZE) for _ in range(3)}) == 3
    assert here.iommu.faults() == []


@each_iommu
def test_device_without_a_domain_reaches_nothing(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(again(function, here.memory(RINGS)))
    here.iommu.faults()
    with pytest.raises(TimeoutError):
        device.read(SIZE, timeout=REFUSED_S)
    fault = here.iommu.faults()[0]
    assert fault.bdf == function.bdf == BEHIND_PORT0
    assert fault.reason == NO_DOMAIN.get(type(here.iommu), FaultReason.DOMAIN)


@each_iommu
def test_device_writes_only_where_a_mapping_is(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    buffer = here.memory(DATA, DATA_IOVA)
    assert not drawn(device, buffer)
    here.expect_fault(function.bdf, DATA_IOVA, write=True, mapped=False)
    here.iommu.map_memory(function.bdf, buffer)
    assert drawn(Rng(again(function, device.driver.memory)), buffer)
    assert here.iommu.faults() == []


@each_iommu
def test_device_does_not_write_where_it_may_only_read(
    behind: Callable[..., Behind], kind: str
) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    buffer = here.memory(DATA, DATA_IOVA)
    here.iommu.map(function.bdf, DATA_IOVA, DATA, buffer.size, writable=False)
    assert not drawn(device, buffer)
    here.expect_fault(function.bdf, DATA_IOVA, write=True, mapped=True)


@each_iommu
@pytest.mark.parametrize("readable", [True, False])
def test_device_reads_only_where_it_may_read(
    behind: Callable[..., Behind], tmp_path: Path, kind: str, readable: bool
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4 * SECTOR))
    here = behind(kind, blockdevs=[f"driver=file,node-name=disk0,filename={disk}"])
    function = here.plug({**RNG, "driver": "virtio-blk-pci", "drive": "disk0"})
    device = Blk(here.driver(function))
    buffer = here.memory(DATA, DATA_IOVA)
    here.iommu.map(function.bdf, DATA_IOVA, DATA, buffer.size, readable=readable)
    secret = b"unreadable".ljust(SECTOR, b".")
    memory = device.driver.memory
    head = memory.put(blk.BlkRequest.OUT.to_bytes(16, "little"))
    chain = [Buffer(head, 16), Buffer(buffer.put(secret), SECTOR)]
    device.driver.serve(device.requestq, [*chain, Buffer(memory.take(1), 1, writable=True)])
    assert (disk.read_bytes()[:SECTOR] == secret) == readable
    if readable:
        assert here.iommu.faults() == []
    else:
        here.expect_fault(function.bdf, DATA_IOVA, write=False, mapped=True)


@each_iommu
def test_unmapping_takes_back_what_was_in_use(behind: Callable[..., Behind], kind: str) -> None:
    """The mapping is in QEMU's caches when it is removed."""
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    buffer = here.memory(DATA, DATA_IOVA)
    here.iommu.map_memory(function.bdf, buffer)
    assert drawn(device, buffer)
    here.iommu.unmap(function.bdf, DATA_IOVA, buffer.size)
    assert not drawn(device, buffer)
    here.expect_fault(function.bdf, DATA_IOVA, write=True, mapped=False)


@each_iommu
def test_detaching_takes_everything_back(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    device.read(SIZE)
    here.iommu.detach(function.bdf)
    with pytest.raises(TimeoutError):
        device.read(SIZE, timeout=REFUSED_S)
    here.iommu.attach(function.bdf)
    here.iommu.map_memory(function.bdf, device.driver.memory)
    assert len(Rng(again(function, device.driver.memory)).read(SIZE)) == SIZE


@each_paged
def test_page_out_of_a_large_one_is_unmapped(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    here.iommu.map_memory(function.bdf, here.memory(DATA, DATA_IOVA))
    pages = [here.memory(DATA + at, DATA_IOVA + at, PAGE) for at in (4 * PAGE, 5 * PAGE, 6 * PAGE)]
    assert [drawn(device, page) for page in pages] == [True, True, True]
    here.iommu.unmap(function.bdf, DATA_IOVA + 5 * PAGE, PAGE)
    assert [drawn(device, page) for page in pages] == [True, False, True]
    here.iommu.map(function.bdf, DATA_IOVA + 5 * PAGE, DATA + 5 * PAGE, PAGE)
    assert drawn(Rng(again(function, device.driver.memory)), pages[1])


@each_iommu
def test_window_of_small_pages_is_reached_everywhere(
    behind: Callable[..., Behind], kind: str
) -> None:
    """IOVA and address differ by an odd number of pages; the window spans several tables."""
    here = behind(kind)
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    iova, size = DATA_IOVA - PAGE, 5 * MIB
    here.iommu.map(function.bdf, iova, DATA, size)
    for at in (0, PAGE, 2 * MIB, 3 * MIB, size - PAGE):
        assert drawn(device, here.memory(DATA + at, iova + at, PAGE))
    assert here.iommu.faults() == []
    assert not drawn(device, here.memory(DATA + size, iova + size, PAGE))


@each_iommu
def test_device_without_iommu_platform_is_not_translated(
    behind: Callable[..., Behind], kind: str
) -> None:
    here = behind(kind)
    function = here.plug({**RNG, "iommu_platform": False})
    device = Rng(again(function, here.memory(RINGS)))
    assert not device.driver.has(FeatureBit.ACCESS_PLATFORM)
    assert len(device.read(SIZE)) == SIZE
    assert here.iommu.faults() == []


@each_iommu
def test_disabled_iommu_leaves_addresses_alone(behind: Callable[..., Behind], kind: str) -> None:
    """All mappings are there again when it is enabled again."""
    here = behind(kind)
    function = here.plug(RNG)
    mapped = here.driver(function).memory
    here.iommu.disable()
    assert len(Rng(again(function, here.memory(DATA))).read(SIZE)) == SIZE
    here.iommu.enable()
    with pytest.raises(TimeoutError):
        Rng(again(function, here.memory(DATA))).read(SIZE, timeout=REFUSED_S)
    assert len(Rng(again(function, mapped)).read(SIZE)) == SIZE


@each_iommu
def test_iommu_is_restored_after_a_system_reset(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind)
    function = here.plug(RNG)
    mapped = here.driver(function).memory
    here.machine.qmp.execute("system_reset")
    function = here.function(function.bdf)
    assert len(Rng(again(function, here.memory(DATA))).read(SIZE)) == SIZE
    here.iommu.enable()
    assert len(Rng(again(function, mapped)).read(SIZE)) == SIZE


@each_iommu
def test_domains_are_apart(behind: Callable[..., Behind], kind: str) -> None:
    """The same IOVA is different memory for each device; none has the other's mappings."""
    here = behind(kind, PORT1)
    first, second = here.plug(RNG), here.plug(RNG1)
    devices = [Rng(here.driver(first)), Rng(here.driver(second, RINGS + 8 * MIB))]
    buffer = here.memory(DATA, DATA_IOVA)
    here.iommu.map_memory(first.bdf, buffer)
    assert [len(device.read(SIZE)) for device in devices] == [SIZE, SIZE]
    assert drawn(devices[0], buffer)
    assert not drawn(devices[1], buffer)
    here.expect_fault(second.bdf, DATA_IOVA, write=True, mapped=False)


@each_iommu
def test_domain_moves_to_another_device(behind: Callable[..., Behind], kind: str) -> None:
    here = behind(kind, PORT1)
    first, second = here.plug(RNG), here.plug(RNG1)
    device = Rng(here.driver(first))
    device.read(SIZE)
    here.iommu.move(first.bdf, second.bdf)
    with pytest.raises(TimeoutError):
        device.read(SIZE, timeout=REFUSED_S)
    assert len(Rng(again(second, device.driver.memory)).read(SIZE)) == SIZE


@pytest.mark.parametrize(("kind", "bits"), [("intel-iommu", 48), ("intel-iommu 39 bits", 39)])
def test_vtd_has_as_many_address_bits_as_asked_for(
    behind: Callable[..., Behind], kind: str, bits: int
) -> None:
    here = behind(kind)
    assert here.iommu.limit == 1 << bits
    function = here.plug(RNG)
    device = Rng(here.driver(function))
    top = here.memory(DATA, here.iommu.limit - 4 * MIB)
    here.iommu.map_memory(function.bdf, top)
    assert drawn(device, top)
