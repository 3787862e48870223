"""Transitional and legacy virtio PCI functions driven through their I/O ports."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, bits, mask
from qap.oracle.status import Status
from qap.verify.kit.lab import SECTORS
from qap.virtio import blk, rng
from qap.virtio.blk import Blk
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer
from qap.virtio.rng import Rng
from qap.virtio.split import SplitQueue
from qap.virtio.transport import QueueAddresses, VirtioError

BUSES = {"pc": "pci.0", "q35": "port0"}
KINDS: dict[str, Device] = {
    "transitional": {"disable-legacy": "off"},
    "legacy": {"disable-legacy": "off", "disable-modern": True},
}
RINGS = {
    "plain": (),
    "indirect": (FeatureBit.INDIRECT_DESC,),
    "event_idx": (FeatureBit.EVENT_IDX,),
    "both": (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
}
MESSAGE = 0x0010_0000


def moved(queue: QueueAddresses, by: int) -> QueueAddresses:
    return QueueAddresses(queue.size, queue.desc + by, queue.driver + by, queue.device + by)


MISPLACED: dict[str, Callable[[QueueAddresses], QueueAddresses]] = {
    "not at a page": lambda queue: moved(queue, 16),
    "at address 0": lambda queue: moved(queue, -queue.desc),
    "above 32 bits of pages": lambda queue: moved(queue, 1 << 44),
    "driver area elsewhere": lambda queue: replace(queue, driver=queue.driver + 2),
    "device area not at a page": lambda queue: replace(queue, device=queue.device - 4),
    "device area a page late": lambda queue: replace(queue, device=queue.device + 4096),
}
Start = Callable[..., Machine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a machine with one virtio function."""
    with ExitStack() as owned:

        def started(
            driver: str = "virtio-rng-pci",
            machine: str = "pc",
            kind: str = "transitional",
            blockdevs: tuple[str, ...] = (),
            **properties: object,
        ) -> Machine:
            device = {"driver": driver, "id": "dut", "bus": BUSES[machine], **KINDS[kind]}
            port = [{"driver": "pcie-root-port", "id": "port0"}] if machine == "q35" else []
            spec = Spec(
                machine=machine,
                accel="qtest",
                memory=128,
                devices=[*port, {**device, **properties}],
                blockdevs=blockdevs,
                qtest=True,
            )
            binary = Build.under_test().path("qemu-system-x86_64")
            return owned.enter_context(Machine(binary, spec, log=tmp_path / "qemu.log"))

        yield started


@pytest.fixture
def disk_machine(start: Start, disk: Path) -> Machine:
    """A pc with that disk behind a transitional virtio-blk-pci."""
    blockdev = f"driver=file,node-name=disk0,filename={disk}"
    return start("virtio-blk-pci", blockdevs=(blockdev,), drive="disk0", serial="qap-disk")


def function(machine: Machine) -> Function:
    return PciBus(machine.qtest).find(VENDOR_ID)


def negotiated(machine: Machine, *features: int) -> Driver:
    """A legacy driver that supports these features, and knows no FEATURES_OK (3.1.2)."""
    behaviour = Behaviour(supports=mask(features), sets_features_ok=False)
    driver = Driver(PciLegacy(function(machine)), GuestMemory(machine.qtest), behaviour)
    assert driver.negotiate() == Status.ACKNOWLEDGE | Status.DRIVER
    assert driver.accepted == mask(features)
    return driver


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", BUSES)
def test_rng_fills_a_buffer(start: Start, machine: str, kind: str) -> None:
    device = Rng(negotiated(start(machine=machine, kind=kind)))
    assert device.driver.transport.device_type == rng.DEVICE_TYPE
    drawn = [device.read(64) for _ in range(3)]
    assert [len(data) for data in drawn] == [64, 64, 64]
    assert len(set(drawn)) == 3


def test_rng_is_served_past_the_end_of_its_ring(start: Start) -> None:
    device = Rng(negotiated(start()))
    entries = device.requestq.size
    assert entries == device.driver.transport.queue_max(0)
    for _ in range(entries + 3):
        assert len(device.read(8)) == 8
    assert isinstance(device.requestq, SplitQueue)
    assert device.requestq.used_idx == entries + 3


@pytest.mark.parametrize("ring", RINGS)
def test_blk_reads_and_writes_its_file(disk_machine: Machine, disk: Path, ring: str) -> None:
    device = Blk(negotiated(disk_machine, *RINGS[ring], blk.FEATURE_FLUSH))
    before = disk.read_bytes()
    assert device.driver.transport.device_type == blk.DEVICE_TYPE
    assert device.serial() == "qap-disk"
    new = os.urandom(1024)
    device.write(2, new)
    device.flush()
    assert disk.read_bytes() == before[:1024] + new + before[2048:]
    assert device.read(2, 2) == new


def test_blk_is_served_past_the_end_of_its_ring(disk_machine: Machine, disk: Path) -> None:
    device = Blk(negotiated(disk_machine, *RINGS["both"]))
    memory, queue = device.driver.memory, device.requestq
    header, room, status = memory.put(bytes(16)), memory.take(512), memory.take(1)
    chain = [Buffer(header, 16), Buffer(room, 512, True), Buffer(status, 1, True)]
    for _ in range(queue.size):
        assert device.driver.serve(queue, chain).length == 513
    content = disk.read_bytes()
    for sector in range(3):
        assert device.read(sector) == content[512 * sector : 512 * (sector + 1)]
    assert isinstance(queue, SplitQueue)
    assert queue.used_idx == queue.size + 3


def test_only_the_lower_features_are_offered(start: Start) -> None:
    """The driver can't read bits 32 to 63; they count as not accepted (4.1.4.10)."""
    transitional = function(start())
    legacy = PciLegacy(transitional).device_features
    modern = PciModern(transitional).device_features
    assert {FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX} <= set(bits(legacy))
    assert max(bits(legacy)) < FeatureBit.VERSION_1
    assert modern >> FeatureBit.VERSION_1 & 1


def test_upper_features_can_not_be_accepted(start: Start) -> None:
    transport = PciLegacy(function(start()))
    with pytest.raises(VirtioError, match="can't take the features 0x100000000"):
        transport.set_driver_features(mask([FeatureBit.VERSION_1]))


def test_accepted_features_read_back_until_reset(start: Start) -> None:
    transport = negotiated(start(), FeatureBit.EVENT_IDX).transport
    assert transport.driver_features == mask([FeatureBit.EVENT_IDX])
    transport.reset()
    assert transport.driver_features == 0


def test_capacity_is_read_wherever_msi_x_puts_it(disk_machine: Machine) -> None:
    """While MSI-X is enabled, two vector registers precede the configuration."""
    transport = PciLegacy(function(disk_machine))
    capacity = SECTORS.to_bytes(8, "little")
    assert not transport.msi_x_enabled
    assert transport.config_read(0, 8) == capacity
    transport.function.enable_msi_x(transport.bars, [(MESSAGE, 1)])
    assert transport.msi_x_enabled
    assert transport.config_read(0, 8) == capacity


def test_msi_x_vector_of_a_queue_sends_its_message(disk_machine: Machine) -> None:
    transport = PciLegacy(function(disk_machine))
    transport.function.enable_msi_x(transport.bars, [(MESSAGE, 0xA), (MESSAGE + 4, 0xB)])
    behaviour = Behaviour(supports=0, sets_features_ok=False)
    driver = Driver(transport, GuestMemory(disk_machine.qtest), behaviour)
    driver.negotiate()
    device = Blk(driver)
    transport.set_queue_vector(0, 1)
    device.read(0)
    messages = [disk_machine.qtest.readl(MESSAGE + 4 * vector) for vector in (0, 1)]
    assert messages == [0, 0xB]


def test_msi_x_vector_that_is_not_there_is_refused(disk_machine: Machine) -> None:
    transport = PciLegacy(function(disk_machine))
    with pytest.raises(VirtioError, match=r"MSI-X of .* is not enabled"):
        transport.set_queue_vector(0, 0)
    transport.function.enable_msi_x(transport.bars, [])
    with pytest.raises(VirtioError, match="can't use MSI-X vector 1000"):
        transport.set_queue_vector(0, 1000)


def test_function_without_msi_x_has_none_enabled(start: Start) -> None:
    transport = PciLegacy(function(start(vectors=0)))
    assert not transport.msi_x_enabled
    with pytest.raises(VirtioError, match=r"MSI-X of .* is not enabled"):
        transport.set_queue_vector(0, 0)


def test_queue_of_another_size_is_refused(disk_machine: Machine) -> None:
    driver = negotiated(disk_machine)
    entries = driver.transport.queue_max(0)
    short = SplitQueue(driver.memory, 0, entries // 2, legacy=True)
    with pytest.raises(VirtioError, match=f"has {entries} entries, not {entries // 2}"):
        driver.transport.enable_queue(0, short.addresses)
    assert not driver.transport.queue_enabled(0)


@pytest.mark.parametrize("wrong", MISPLACED)
def test_queue_that_does_not_fit_the_layout_is_refused(disk_machine: Machine, wrong: str) -> None:
    driver = negotiated(disk_machine)
    entries = driver.transport.queue_max(0)
    fits = SplitQueue(driver.memory, 0, entries, legacy=True).addresses
    with pytest.raises(VirtioError, match=f"a queue of {entries} entries at .* legacy layout"):
        driver.transport.enable_queue(0, MISPLACED[wrong](fits))
    assert not driver.transport.queue_enabled(0)


def test_modern_function_has_no_legacy_interface(start: Start) -> None:
    modern = function(start(machine="q35", **{"disable-legacy": "on"}))
    with pytest.raises(VirtioError, match="is 1af4:1044, no legacy virtio device"):
        PciLegacy(modern)


def test_other_functions_are_no_virtio_devices(start: Start) -> None:
    bridge = PciBus(start().qtest).scan()[0]
    with pytest.raises(VirtioError, match="is 8086:1237, no legacy virtio device"):
        PciLegacy(bridge)


@pytest.mark.parametrize("kind", KINDS)
def test_legacy_interface_and_iommu_platform_exclude_each_other(start: Start, kind: str) -> None:
    with pytest.raises(QemuDied) as refused:
        start(kind=kind, iommu_platform=True)
    assert "its legacy interface can't accept VIRTIO_F_ACCESS_PLATFORM" in refused.value.said
