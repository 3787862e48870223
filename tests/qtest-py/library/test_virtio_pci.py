"""Modern virtio PCI devices: service, and negotiation with various drivers."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.lab import SECTORS, Lab
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio import blk, rng
from qap.virtio.blk import Blk, BlkError, BlkStatus
from qap.virtio.driver import MODERN, Behaviour, Driver, FeaturesRefused
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer
from qap.virtio.rng import Rng
from qap.virtio.split import SplitQueue
from qap.virtio.transport import VirtioError

RNG: Device = {"driver": "virtio-rng-pci", "id": "dut", "bus": "port0", "packed": True}
RINGS = {
    "plain": (),
    "indirect": (FeatureBit.INDIRECT_DESC,),
    "event_idx": (FeatureBit.EVENT_IDX,),
    "both": (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
    "packed": (FeatureBit.RING_PACKED,),
    "packed indirect": (FeatureBit.RING_PACKED, FeatureBit.INDIRECT_DESC),
    "packed event_idx": (FeatureBit.RING_PACKED, FeatureBit.EVENT_IDX),
    "packed both": (FeatureBit.RING_PACKED, FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
}
AT_FEATURES_OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK


def driver(machine: Machine, behaviour: Behaviour | None = None) -> Driver:
    """A driver of the machine's only virtio function, which is not reset yet."""
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    return Driver(transport, GuestMemory(machine.qtest), behaviour)


def negotiated(machine: Machine, behaviour: Behaviour | None = None) -> Driver:
    willing = driver(machine, behaviour)
    assert willing.negotiate() == AT_FEATURES_OK
    return willing


@pytest.fixture
def disk_machine(lab: Lab, disk: Path) -> Callable[..., Machine]:
    """A machine with that disk behind virtio-blk-pci."""

    def start(**properties: object) -> Machine:
        device = {"driver": "virtio-blk-pci", "id": "dut", "bus": "port0", "drive": "disk0"}
        blockdev = f"driver=file,node-name=disk0,filename={disk}"
        machine: Machine = lab.machine(
            {**device, "serial": "qap-disk", "packed": True, **properties},
            qtest=True,
            blockdevs=[blockdev],
        )
        return machine

    return start


def test_rng_fills_a_buffer(lab: Lab) -> None:
    device = Rng(negotiated(lab.machine(RNG, qtest=True)))
    assert device.driver.transport.device_type == rng.DEVICE_TYPE
    drawn = [device.read(64) for _ in range(3)]
    assert [len(data) for data in drawn] == [64, 64, 64]
    assert len(set(drawn)) == 3


def test_transitional_device_serves_a_modern_driver(lab: Lab) -> None:
    machine = lab.machine({**RNG, "disable-legacy": "off"}, qtest=True)
    device = Rng(negotiated(machine))
    assert device.driver.transport.device_type == rng.DEVICE_TYPE
    assert len(device.read(16)) == 16


def test_other_functions_are_no_virtio_devices(lab: Lab) -> None:
    bus = PciBus(lab.machine(qtest=True).qtest)
    with pytest.raises(VirtioError, match="has vendor 0x8086, not virtio's"):
        PciModern(bus.scan()[0])


@pytest.mark.parametrize("ring", RINGS)
def test_ring_serves_past_its_wrap(lab: Lab, ring: str) -> None:
    """300 buffers, one at a time, in a ring of at most 64 descriptors."""
    extra = mask(RINGS[ring])
    device = Rng(negotiated(lab.machine(RNG, qtest=True), Behaviour(supports=MODERN | extra)))
    assert device.driver.accepted & extra == extra
    for _ in range(300):
        assert len(device.read(8)) == 8
    if isinstance(device.requestq, SplitQueue):
        assert device.requestq.used_idx == 300


@pytest.mark.parametrize("ring", RINGS)
def test_buffers_in_flight_come_back_once_each(lab: Lab, ring: str) -> None:
    """Three at a time, past the end of the ring: each buffer is filled, and no other."""
    extra = mask(RINGS[ring])
    willing = negotiated(lab.machine(RNG, qtest=True), Behaviour(supports=MODERN | extra))
    queue = willing.queue(0, size=16)
    willing.start()
    room = [willing.memory.take(16) for _ in range(4)]
    for _ in range(20):
        heads = {queue.add([Buffer(address, 16, writable=True)]) for address in room[:3]}
        if queue.wants_notification():
            willing.transport.notify(0)
        assert {queue.wait_used(10).id for _ in range(3)} == heads
        filled = [any(willing.memory.read(address, 16)) for address in room]
        assert filled == [True, True, True, False]
        for address in room:
            willing.memory.write(address, bytes(16))


def test_guest_memory_is_zeroed_and_ends(lab: Lab) -> None:
    memory = GuestMemory(lab.machine(qtest=True).qtest, size=64)
    memory.write(memory.take(32), b"x" * 32)
    memory.give_back()
    assert memory.read(memory.take(32), 32) == bytes(32)
    with pytest.raises(QapError, match="no 33 bytes are left of 64"):
        memory.take(33)


@pytest.mark.parametrize("ring", RINGS)
def test_blk_reads_and_writes_its_file(
    disk_machine: Callable[..., Machine], disk: Path, ring: str
) -> None:
    supports = MODERN | mask([*RINGS[ring], blk.FEATURE_FLUSH])
    device = Blk(negotiated(disk_machine(), Behaviour(supports=supports)))
    before = disk.read_bytes()
    assert device.driver.transport.device_type == blk.DEVICE_TYPE
    assert device.capacity == SECTORS
    assert device.serial() == "qap-disk"
    assert device.read(7, 3) == before[7 * 512 : 10 * 512]
    new = os.urandom(1024)
    device.write(2, new)
    device.flush()
    assert disk.read_bytes() == before[:1024] + new + before[2048:]
    assert device.read(2, 2) == new


def test_blk_refuses_to_read_past_its_end(disk_machine: Callable[..., Machine]) -> None:
    device = Blk(negotiated(disk_machine()))
    with pytest.raises(BlkError, match=f"IN at sector {SECTORS}: IOERR") as refused:
        device.read(SECTORS)
    assert refused.value.status == BlkStatus.IOERR


@pytest.mark.parametrize("iommu_platform", [False, True])
def test_access_platform_is_offered_on_request(lab: Lab, iommu_platform: bool) -> None:
    machine = lab.machine({**RNG, "iommu_platform": iommu_platform}, qtest=True)
    offered = driver(machine).transport.device_features
    assert bool(offered >> FeatureBit.ACCESS_PLATFORM & 1) == iommu_platform
    assert offered >> FeatureBit.VERSION_1 & 1


@pytest.mark.parametrize("iommu_platform", [False, True])
def test_features_ok_needs_access_platform_where_it_is_offered(
    lab: Lab, iommu_platform: bool
) -> None:
    """virtio 1.3, 6.1: a driver SHOULD accept it; the device MAY fail to operate otherwise."""
    machine = lab.machine({**RNG, "iommu_platform": iommu_platform}, qtest=True)
    refusing = driver(machine, Behaviour().without(FeatureBit.ACCESS_PLATFORM))
    if not iommu_platform:
        assert refusing.negotiate() == AT_FEATURES_OK
        return
    with pytest.raises(FeaturesRefused, match="ACCESS_PLATFORM") as refused:
        refusing.negotiate()
    assert refused.value.accepted == mask([FeatureBit.VERSION_1])
    assert Status.FEATURES_OK not in refusing.transport.status


def test_refused_driver_may_negotiate_again(lab: Lab) -> None:
    """After a reset it may negotiate again and is served (3.1.1)."""
    machine = lab.machine({**RNG, "iommu_platform": True}, qtest=True)
    stubborn = driver(machine, Behaviour().without(FeatureBit.ACCESS_PLATFORM))
    with pytest.raises(FeaturesRefused):
        stubborn.negotiate()
    willing = Driver(stubborn.transport, stubborn.memory)
    assert willing.negotiate() == AT_FEATURES_OK
    assert willing.has(FeatureBit.ACCESS_PLATFORM)
    assert len(Rng(willing).read(16)) == 16


def test_driver_that_disobeys_sees_the_refusal(lab: Lab) -> None:
    machine = lab.machine({**RNG, "iommu_platform": True}, qtest=True)
    behaviour = Behaviour(supports=mask([FeatureBit.VERSION_1]), obeys=False)
    assert driver(machine, behaviour).negotiate() == Status.ACKNOWLEDGE | Status.DRIVER


def test_claimed_feature_is_not_taken(lab: Lab) -> None:
    """A feature that was not offered has no effect (2.2.1); the register reads as written."""
    machine = lab.machine(RNG, qtest=True)
    claiming = driver(machine, Behaviour(claims=mask([FeatureBit.ACCESS_PLATFORM]), obeys=False))
    claiming.negotiate()
    assert claiming.transport.driver_features == MODERN
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    taken = machine.qmp.execute("x-query-virtio-status", path=path)["guest-features"]["transports"]
    assert [text.partition(":")[0] for text in taken] == ["VIRTIO_F_VERSION_1"]


def test_reset_takes_everything_back(lab: Lab) -> None:
    device = Rng(negotiated(lab.machine(RNG, qtest=True)))
    transport = device.driver.transport
    assert transport.status == AT_FEATURES_OK | Status.DRIVER_OK
    assert transport.queue_enabled(0)
    transport.reset()
    assert transport.status == Status(0)
    assert not transport.queue_enabled(0)


def test_interrupt_is_pending_until_read(lab: Lab) -> None:
    device = Rng(negotiated(lab.machine(RNG, qtest=True)))
    assert device.driver.transport.isr_status() == 0
    device.read(8)
    assert [device.driver.transport.isr_status() for _ in range(2)] == [1, 0]


def test_unserved_buffer_says_so(lab: Lab) -> None:
    """The device was reset, so its queue is disabled."""
    machine = lab.machine(RNG, qtest=True)
    device = Rng(negotiated(machine))
    device.driver.transport.reset()
    with pytest.raises(TimeoutError, match="queue 0 to be served"):
        device.read(8, timeout=0.2)


def test_queue_that_is_not_there_is_named(lab: Lab) -> None:
    with pytest.raises(VirtioError, match="no queue 1"):
        negotiated(lab.machine(RNG, qtest=True)).queue(1)


def test_full_queue_is_an_error(lab: Lab) -> None:
    willing = negotiated(lab.machine(RNG, qtest=True))
    queue = willing.queue(0, size=2)
    buffer = Buffer(willing.memory.take(8), 8, writable=True)
    queue.add([buffer])
    queue.add([buffer])
    with pytest.raises(VirtioError, match="queue 0 has 0 free descriptors"):
        queue.add([buffer])


def test_hot_plugged_device_is_driven(lab: Lab) -> None:
    """Four times in the same slot of one machine."""
    machine = lab.machine(qtest=True)
    for _ in range(4):
        machine.plug({**RNG, "iommu_platform": True})
        assert len(Rng(negotiated(machine)).read(32)) == 32
        machine.qmp.execute("device_del", id="dut")
        machine.qmp.execute("system_reset")
        machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", 10)


@pytest.mark.parametrize("viommu", ["none", "intel-iommu"])
def test_back_end_hears_of_access_platform_only_behind_an_iommu(lab: Lab, viommu: str) -> None:
    """The driver always accepts the bit; the back-end gets it only if it must translate."""
    backend = lab.backend("vhost-user-rng", access_platform=viommu != "none")
    device = lab.device("vhost-user-rng", backend)
    willing = negotiated(lab.machine(device, viommu=viommu, qtest=True))
    assert willing.has(FeatureBit.ACCESS_PLATFORM)
    before = len(backend.received)
    willing.queue(0)
    willing.start()
    backend.wait_for(FrontendRequest.SET_VRING_KICK, 10, since=before)
    told = [
        message.words[0]
        for message in backend.received[before:]
        if message.request == FrontendRequest.SET_FEATURES
    ]
    assert told
    assert all(word >> FeatureBit.VERSION_1 & 1 for word in told)
    hears = [bool(word >> FeatureBit.ACCESS_PLATFORM & 1) for word in told]
    assert hears == [viommu != "none"] * len(told)
