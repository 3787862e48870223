"""Virtio devices in the slots of a microvm, driven through MMIO of version 1 and 2."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, bits, mask
from qap.oracle.status import Status
from qap.virtio import blk, rng
from qap.virtio.blk import Blk
from qap.virtio.driver import MODERN, Behaviour, Driver, FeaturesRefused
from qap.virtio.mmio import MICROVM_BASE, SLOT_SIZE, Mmio, mmio_slots
from qap.virtio.packed import PackedQueue
from qap.virtio.queue import Buffer, Queue
from qap.virtio.rng import Rng
from qap.virtio.split import SplitQueue
from qap.virtio.transport import VirtioError

VERSIONS = (1, 2)
RINGS = {
    "plain": (),
    "indirect": (FeatureBit.INDIRECT_DESC,),
    "event_idx": (FeatureBit.EVENT_IDX,),
    "both": (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
}
PACKED_RINGS = {f"packed {name}": (FeatureBit.RING_PACKED, *RINGS[name]) for name in RINGS}
KNOWN_RINGS = RINGS | PACKED_RINGS
VERSION_RINGS = [(1, ring) for ring in RINGS] + [(2, ring) for ring in KNOWN_RINGS]
BEFORE_FEATURES_OK = Status.ACKNOWLEDGE | Status.DRIVER
Start = Callable[..., Machine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a microvm with devices of one version."""
    with ExitStack() as owned:

        def started(
            version: int, *drivers: str, disk: Path | None = None, **more: object
        ) -> Machine:
            legacy = "on" if version == 1 else "off"
            blockdev = f"driver=file,node-name=disk0,filename={disk}"
            spec = Spec(
                machine="microvm",
                accel="qtest",
                memory=128,
                devices=[
                    {"driver": driver, "id": f"dut{i}", **more} for i, driver in enumerate(drivers)
                ],
                blockdevs=[blockdev] if disk else [],
                extra=["-global", f"virtio-mmio.force-legacy={legacy}"],
                qtest=True,
            )
            binary = Build.under_test().path("qemu-system-x86_64")
            return owned.enter_context(Machine(binary, spec, log=tmp_path / "qemu.log"))

        yield started


@pytest.fixture
def rng_machine(start: Start) -> Callable[..., Machine]:
    """A microvm with an entropy device."""

    def started(version: int, **properties: object) -> Machine:
        return start(version, "virtio-rng-device", packed=version == 2, **properties)

    return started


@pytest.fixture
def disk_machine(start: Start, disk: Path) -> Callable[[int], Machine]:
    """A microvm with that disk."""
    serial = {"drive": "disk0", "serial": "qap-disk"}

    def started(version: int) -> Machine:
        return start(version, "virtio-blk-device", disk=disk, packed=version == 2, **serial)

    return started


def slot(machine: Machine) -> Mmio:
    (only,) = mmio_slots(machine.qtest)
    return only


def negotiated(machine: Machine, *features: int) -> Driver:
    """A driver that accepts these features, and VERSION_1 from a modern device."""
    transport = slot(machine)
    wanted = mask(features) if transport.legacy else mask(features) | mask([FeatureBit.VERSION_1])
    behaviour = Behaviour(supports=wanted, sets_features_ok=not transport.legacy)
    driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
    kept = driver.negotiate()
    assert kept == BEFORE_FEATURES_OK | (Status(0) if transport.legacy else Status.FEATURES_OK)
    assert driver.accepted == wanted
    return driver


def short_legacy_queue(driver: Driver) -> Queue:
    """Enable a queue of 16 entries, shorter than `Driver.queue` would make it."""
    queue = SplitQueue(
        driver.memory,
        0,
        16,
        legacy=True,
        indirect=driver.has(FeatureBit.INDIRECT_DESC),
        event_idx=driver.has(FeatureBit.EVENT_IDX),
    )
    driver.transport.enable_queue(0, queue.addresses)
    return queue


@pytest.mark.parametrize("version", VERSIONS)
def test_slots_that_are_taken_are_found(start: Start, version: int) -> None:
    machine = start(version, "virtio-rng-device", "virtio-balloon-device", "virtio-rng-device")
    transports = mmio_slots(machine.qtest)
    assert sorted(transport.device_type for transport in transports) == [4, 4, 5]
    assert [transport.base for transport in transports] == sorted(
        {transport.base for transport in transports}
    )
    assert {transport.version for transport in transports} == {version}
    assert {transport.legacy for transport in transports} == {version == 1}


def test_machine_without_devices_has_only_empty_slots(start: Start) -> None:
    qtest = start(2).qtest
    assert mmio_slots(qtest) == []
    with pytest.raises(VirtioError, match="slot at 0xfeb00000 is empty"):
        Mmio(qtest, MICROVM_BASE)


def test_other_memory_is_no_device(start: Start) -> None:
    qtest = start(2).qtest
    with pytest.raises(VirtioError, match="no virtio device is at 0x1000000"):
        Mmio(qtest, 0x100_0000)
    assert mmio_slots(qtest, base=0x100_0000, slots=2, size=SLOT_SIZE) == []


def test_device_of_an_unknown_version_is_ignored(start: Start) -> None:
    """Data in RAM that look like a device of version 3."""
    qtest = start(2).qtest
    qtest.write(0x100_0000, b"virt" + bytes([3, 0, 0, 0, 4, 0, 0, 0]))
    with pytest.raises(VirtioError, match="no virtio device is at 0x1000000"):
        Mmio(qtest, 0x100_0000)


@pytest.mark.parametrize("version", VERSIONS)
def test_rng_is_served_past_the_end_of_its_ring(
    rng_machine: Callable[..., Machine], version: int
) -> None:
    driver = negotiated(rng_machine(version))
    assert driver.transport.device_type == rng.DEVICE_TYPE
    device = Rng(driver)
    drawn = {device.read(8) for _ in range(device.requestq.size + 3)}
    assert {len(data) for data in drawn} == {8}
    assert len(drawn) == device.requestq.size + 3
    assert isinstance(device.requestq, SplitQueue)
    assert device.requestq.used_idx == device.requestq.size + 3


@pytest.mark.parametrize(("version", "ring"), VERSION_RINGS)
def test_blk_reads_and_writes_its_file(
    disk_machine: Callable[[int], Machine], disk: Path, version: int, ring: str
) -> None:
    device = Blk(negotiated(disk_machine(version), *KNOWN_RINGS[ring], blk.FEATURE_FLUSH))
    before = disk.read_bytes()
    assert device.driver.transport.device_type == blk.DEVICE_TYPE
    assert isinstance(device.requestq, PackedQueue) == ring.startswith("packed")
    assert device.serial() == "qap-disk"
    assert device.read(7, 3) == before[7 * 512 : 10 * 512]
    new = os.urandom(1024)
    device.write(2, new)
    device.flush()
    assert disk.read_bytes() == before[:1024] + new + before[2048:]
    assert device.read(2, 2) == new


@pytest.mark.parametrize(("version", "ring"), VERSION_RINGS)
def test_short_ring_is_served_past_its_end(
    disk_machine: Callable[[int], Machine], disk: Path, version: int, ring: str
) -> None:
    """Version 1, too, takes a queue that is shorter than its maximum (4.2.4)."""
    driver = negotiated(disk_machine(version), *KNOWN_RINGS[ring])
    queue = driver.queue(0, size=16) if version == 2 else short_legacy_queue(driver)
    driver.start()
    memory, expected = driver.memory, disk.read_bytes()[:512]
    header = memory.put(bytes(16))
    sector, status = memory.take(512), memory.take(1)
    chain = [Buffer(header, 16), Buffer(sector, 512, True), Buffer(status, 1, True)]
    for _ in range(40):
        memory.write(sector, bytes(512))
        memory.write(status, b"\xff")
        assert driver.serve(queue, chain).length == 513
        assert memory.read(status, 1) == b"\x00"
        assert memory.read(sector, 512) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_queue_that_is_too_long_is_refused(
    rng_machine: Callable[..., Machine], version: int
) -> None:
    driver = negotiated(rng_machine(version))
    most = driver.transport.queue_max(0)
    long = SplitQueue(driver.memory, 0, 2 * most, legacy=version == 1)
    with pytest.raises(VirtioError, match=f"has {most} entries, not {2 * most}"):
        driver.transport.enable_queue(0, long.addresses)
    assert not driver.transport.queue_enabled(0)


def test_queue_in_pieces_does_not_fit_version_1(rng_machine: Callable[..., Machine]) -> None:
    driver = negotiated(rng_machine(1))
    with pytest.raises(VirtioError, match="does not fit the legacy layout"):
        driver.transport.enable_queue(0, SplitQueue(driver.memory, 0, 16).addresses)
    assert not driver.transport.queue_enabled(0)


@pytest.mark.parametrize("version", VERSIONS)
def test_version_says_which_features_are_offered(
    rng_machine: Callable[..., Machine], version: int
) -> None:
    offered = set(bits(slot(rng_machine(version)).device_features))
    assert {FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX} <= offered
    assert (FeatureBit.VERSION_1 in offered) == (version == 2)
    assert (max(offered) < FeatureBit.VERSION_1) == (version == 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_accepted_features_are_remembered_until_reset(
    rng_machine: Callable[..., Machine], version: int
) -> None:
    driver = negotiated(rng_machine(version), FeatureBit.EVENT_IDX)
    assert driver.transport.driver_features == driver.accepted
    driver.transport.reset()
    assert driver.transport.driver_features == 0


def test_version_1_can_not_be_told_of_upper_features(rng_machine: Callable[..., Machine]) -> None:
    with pytest.raises(VirtioError, match="can't take the features 0x100000000"):
        slot(rng_machine(1)).set_driver_features(mask([FeatureBit.VERSION_1]))


@pytest.mark.parametrize("version", VERSIONS)
def test_interrupt_is_pending_until_acknowledged(
    rng_machine: Callable[..., Machine], version: int
) -> None:
    machine = rng_machine(version)
    device = Rng(negotiated(machine))
    transport = device.driver.transport
    assert isinstance(transport, Mmio)
    # QOM path of the slot with the device's bus.
    bus = machine.qmp.execute("qom-get", path="/machine/peripheral/dut0", property="parent_bus")
    machine.qtest.irq_intercept_out(bus.rpartition("/")[0], "sysbus-irq")
    assert transport.interrupt_status == 0
    device.read(8)
    machine.qtest.wait_irq(0, raised=True)
    assert [transport.interrupt_status for _ in range(2)] == [1, 1]
    transport.acknowledge(2)
    assert transport.interrupt_status == 1
    transport.acknowledge(1)
    assert transport.interrupt_status == 0
    machine.qtest.wait_irq(0, raised=False)
    device.read(8)
    assert [transport.isr_status() for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("iommu_platform", [False, True])
def test_features_ok_needs_access_platform_where_it_is_offered(
    rng_machine: Callable[..., Machine], iommu_platform: bool
) -> None:
    machine = rng_machine(2, iommu_platform=iommu_platform)
    behaviour = Behaviour().without(FeatureBit.ACCESS_PLATFORM)
    refusing = Driver(slot(machine), GuestMemory(machine.qtest), behaviour)
    if not iommu_platform:
        assert refusing.negotiate() == BEFORE_FEATURES_OK | Status.FEATURES_OK
        return
    with pytest.raises(FeaturesRefused, match="ACCESS_PLATFORM"):
        refusing.negotiate()
    assert Status.FEATURES_OK not in refusing.transport.status
    willing = Driver(refusing.transport, refusing.memory, Behaviour(supports=MODERN))
    assert willing.negotiate() == BEFORE_FEATURES_OK | Status.FEATURES_OK
    assert willing.has(FeatureBit.ACCESS_PLATFORM)
    assert len(Rng(willing).read(16)) == 16


def test_version_1_can_not_speak_of_access_platform(
    rng_machine: Callable[..., Machine], record_property: Callable[[str, object], None]
) -> None:
    """Whether QEMU accepts and serves such a device is tested by the matrix."""
    try:
        machine = rng_machine(1, iommu_platform=True)
    except QemuDied as died:
        record_property("seen", died.said)
        assert died.status == 1
        return
    driver = negotiated(machine)
    assert max(bits(driver.offered)) < FeatureBit.VERSION_1
    queue = driver.queue(0)
    record_property("seen", f"DRIVER_OK: status {driver.start()!r}")
    room = Buffer(driver.memory.take(16), 16, writable=True)
    try:
        length = driver.serve(queue, [room], timeout=0.2).length
    except TimeoutError:
        record_property("seen", "not served")
    else:
        record_property("seen", f"served {length} bytes")
