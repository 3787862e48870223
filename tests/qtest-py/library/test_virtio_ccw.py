"""Virtio devices over channel I/O, driven at each revision."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.hw.channel_program import ChannelError, ProgramFailed
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.lab import SECTORS, Lab
from qap.virtio import blk, rng
from qap.virtio.blk import Blk
from qap.virtio.ccw import RevisionRefused, VirtioCcw
from qap.virtio.driver import MODERN, Behaviour, Driver, FeaturesRefused
from qap.virtio.rng import Rng
from qap.virtio.transport import QueueAddresses, VirtioError

DEVICE_NUMBER = 5
RNG: Device = {"driver": "virtio-rng-ccw", "id": "dut", "devno": "fe.0.0005"}
KEYBOARD: Device = {"driver": "virtio-keyboard-ccw", "id": "dut", "devno": "fe.0.0005"}
# 5.2.3.
FEATURE_CONFIG_WCE = 11
LEGACY = Behaviour(supports=0, sets_features_ok=False)
REVISIONS = (0, 1, 2)
MODERN_REVISIONS = (1, 2)
AT_FEATURES_OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK


@pytest.fixture
def disk_machine(lab: Lab, disk: Path) -> Callable[..., Machine]:
    """A machine with that disk behind virtio-blk-ccw."""

    def started(**properties: object) -> Machine:
        device = {"driver": "virtio-blk-ccw", "devno": "fe.0.0005", "drive": "disk0"}
        blockdev = f"driver=file,node-name=disk0,filename={disk}"
        return lab.s390x({**device, "serial": "qap-disk", **properties}, blockdevs=(blockdev,))

    return started


def transport(machine: Machine, revision: int, *, sets_revision_0: bool = False) -> VirtioCcw:
    """The transport to the device, through a new CPU."""
    cpu = Cpu(machine.qtest, machine.serial)
    return VirtioCcw(
        ChannelSubsystem(cpu).find(DEVICE_NUMBER), revision, sets_revision_0=sets_revision_0
    )


def negotiated(device: VirtioCcw, behaviour: Behaviour | None = None) -> Driver:
    """A driver after negotiation; a legacy driver at revision 0."""
    willing = Driver(
        device, GuestMemory(device.qtest), behaviour or (LEGACY if device.legacy else None)
    )
    reached = Status.ACKNOWLEDGE | Status.DRIVER if device.legacy else AT_FEATURES_OK
    assert willing.negotiate() == reached
    return willing


@pytest.mark.parametrize("revision", REVISIONS)
def test_rng_fills_a_buffer(lab: Lab, revision: int) -> None:
    device = transport(lab.s390x(RNG), revision)
    assert device.device_type == rng.DEVICE_TYPE
    entropy = Rng(negotiated(device))
    drawn = [entropy.read(64) for _ in range(3)]
    assert [len(data) for data in drawn] == [64, 64, 64]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("revision", REVISIONS)
def test_ring_serves_past_its_wrap(lab: Lab, revision: int) -> None:
    entropy = Rng(negotiated(transport(lab.s390x(RNG), revision)))
    for _ in range(100):
        assert len(entropy.read(8)) == 8


def test_packed_ring_serves(lab: Lab) -> None:
    supports = MODERN | mask([FeatureBit.RING_PACKED])
    device = transport(lab.s390x({**RNG, "packed": True}), 2)
    willing = negotiated(device, Behaviour(supports=supports))
    assert willing.has(FeatureBit.RING_PACKED)
    assert len(Rng(willing).read(16)) == 16


@pytest.mark.parametrize("revision", REVISIONS)
def test_blk_reads_and_writes_its_file(
    disk_machine: Callable[..., Machine], disk: Path, revision: int
) -> None:
    device = transport(disk_machine(), revision)
    assert device.device_type == blk.DEVICE_TYPE
    drive = Blk(negotiated(device))
    before = disk.read_bytes()
    assert drive.capacity == SECTORS
    assert drive.serial() == "qap-disk"
    assert drive.read(7, 3) == before[7 * 512 : 10 * 512]
    new = os.urandom(1024)
    drive.write(2, new)
    assert disk.read_bytes() == before[:1024] + new + before[2048:]


@pytest.mark.parametrize("sets_revision_0", [False, True])
def test_revision_0_is_taken_or_set(lab: Lab, sets_revision_0: bool) -> None:
    device = transport(lab.s390x(RNG), 0, sets_revision_0=sets_revision_0)
    assert len(Rng(negotiated(device)).read(16)) == 16


def test_revision_0_knows_32_features(lab: Lab) -> None:
    machine = lab.s390x({**RNG, "iommu_platform": True})
    assert not transport(machine, 0).device_features >> 32
    both = mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM])
    modern = transport(machine, 1).device_features
    assert modern & both == both
    with pytest.raises(VirtioError, match="legacy interface can't take the features"):
        transport(machine, 0).set_driver_features(both)


@pytest.mark.parametrize(("most", "revision"), [(0, 1), (1, 2), (2, 3)])
def test_later_revision_is_refused(lab: Lab, most: int, revision: int) -> None:
    machine = lab.s390x({**RNG, "max_revision": most})
    with pytest.raises(RevisionRefused, match=rf"0\.0\.0005 does not speak revision {revision}"):
        transport(machine, revision)
    assert len(Rng(negotiated(transport(machine, most))).read(16)) == 16


def test_modern_device_refuses_revision_0(lab: Lab) -> None:
    """It also rejects commands of a driver that does not know revisions (4.3.2.1)."""
    machine = lab.s390x(KEYBOARD)
    with pytest.raises(RevisionRefused):
        transport(machine, 0, sets_revision_0=True)
    with pytest.raises(ProgramFailed, match="command reject") as failed:
        transport(machine, 0).reset()
    assert failed.value.executed == 0
    negotiated(transport(machine, 1))


@pytest.mark.parametrize("revision", MODERN_REVISIONS)
@pytest.mark.parametrize("iommu_platform", [False, True])
def test_features_ok_needs_access_platform_where_it_is_offered(
    lab: Lab, revision: int, iommu_platform: bool
) -> None:
    """Without the bit the device rejects the status (4.3.2.3) and keeps the previous one."""
    device = transport(lab.s390x({**RNG, "iommu_platform": iommu_platform}), revision)
    behaviour = Behaviour().without(FeatureBit.ACCESS_PLATFORM)
    if not iommu_platform:
        negotiated(device, behaviour)
        return
    refusing = Driver(device, GuestMemory(device.qtest), behaviour)
    with pytest.raises(FeaturesRefused, match="ACCESS_PLATFORM") as refused:
        refusing.negotiate()
    assert refused.value.accepted == mask([FeatureBit.VERSION_1])
    assert Status.FEATURES_OK not in device.status
    assert len(Rng(negotiated(device)).read(16)) == 16


@pytest.mark.parametrize("revision", REVISIONS)
def test_reset_takes_everything_back(lab: Lab, revision: int) -> None:
    device = transport(lab.s390x(RNG), revision)
    entropy = Rng(negotiated(device))
    assert Status.DRIVER_OK in device.status
    assert device.queue_enabled(rng.REQUESTQ)
    device.reset()
    assert device.status == Status(0)
    assert not device.queue_enabled(rng.REQUESTQ)
    assert device.driver_features == 0
    with pytest.raises(TimeoutError, match="queue 0 to be served"):
        entropy.read(8, timeout=0.2)


def test_device_says_its_status_at_revision_2(lab: Lab) -> None:
    """Also the status that another driver has written before."""
    machine = lab.s390x(RNG)
    negotiated(transport(machine, 2))
    assert transport(machine, 2).status == AT_FEATURES_OK


@pytest.mark.parametrize("revision", REVISIONS)
def test_queue_interrupt_is_pending_until_taken(lab: Lab, revision: int) -> None:
    entropy = Rng(negotiated(transport(lab.s390x(RNG), revision)))
    device = entropy.driver.transport
    assert device.isr_status() == 0
    entropy.read(8)
    assert [device.isr_status() for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("revision", REVISIONS)
def test_configuration_interrupt_is_pending_until_taken(
    disk_machine: Callable[..., Machine], revision: int
) -> None:
    machine = disk_machine()
    device = transport(machine, revision)
    drive = Blk(negotiated(device))
    machine.qmp.execute("block_resize", node_name="disk0", size=512 * SECTORS // 2)
    assert device.subchannel.wait().pending
    assert [device.isr_status() for _ in range(2)] == [2, 0]
    assert drive.capacity == SECTORS // 2


def test_interrupted_subchannel_takes_commands(lab: Lab) -> None:
    """The pending status is cleared first; otherwise START SUBCHANNEL would report it."""
    device = transport(lab.s390x(RNG), 2)
    Rng(negotiated(device)).read(8)
    assert Status.DRIVER_OK in device.status
    assert device.subchannel.test() is None


def test_configuration_is_written(disk_machine: Callable[..., Machine]) -> None:
    """Field `writeback` at offset 32 (5.2.4); the bytes before it don't change."""
    supports = MODERN | mask([FEATURE_CONFIG_WCE])
    device = transport(disk_machine(), 2)
    drive = Blk(negotiated(device, Behaviour(supports=supports)))
    assert drive.driver.has(FEATURE_CONFIG_WCE)
    before = device.config_read(0, 33)
    written = bytes([not before[32]])
    device.config_write(32, written)
    assert device.config_read(0, 33) == before[:32] + written


@pytest.mark.parametrize("end", [401, 1025, 70_000])
def test_configuration_ends(disk_machine: Callable[..., Machine], end: int) -> None:
    device = transport(disk_machine(), 2)
    device.reset()
    said = rf"0\.0\.0005 has no {end} bytes of configuration, but {device.config_size}"
    with pytest.raises(VirtioError, match=said):
        device.config_read(end - 1, 1)
    with pytest.raises(VirtioError, match=said):
        device.config_read(0, end)
    with pytest.raises(VirtioError, match=said):
        device.config_write(0, bytes(end))


def test_configuration_of_any_length_is_read(disk_machine: Callable[..., Machine]) -> None:
    device = transport(disk_machine(), 2)
    device.reset()
    whole = device.config_read(0, device.config_size)
    assert len(whole) > 32
    for size in range(len(whole) + 1):
        assert device.config_read(0, size) == whole[:size]


@pytest.mark.parametrize("index", [1, 5000])
def test_queue_that_is_not_there_is_named(lab: Lab, index: int) -> None:
    device = transport(lab.s390x(RNG), 2)
    with pytest.raises(VirtioError, match=f"no queue {index}"):
        negotiated(device).queue(index)
    with pytest.raises(VirtioError, match=f"can't be notified of queue {index}: -22"):
        device.notify(index)


def test_queue_that_is_too_long_is_refused(lab: Lab) -> None:
    device = transport(lab.s390x(RNG), 2)
    negotiated(device)
    most = device.queue_max(rng.REQUESTQ)
    addresses = QueueAddresses(2 * most, 0x100_0000, 0x110_0000, 0x120_0000)
    with pytest.raises(ChannelError, match="command 0x13 with 32 bytes ended in program check"):
        device.enable_queue(rng.REQUESTQ, addresses)
    assert not device.queue_enabled(rng.REQUESTQ)


def test_hot_plugged_device_is_driven(lab: Lab) -> None:
    """Four times with the same number: once for each revision, and once more."""
    machine = lab.s390x()
    for revision in (*REVISIONS, 0):
        machine.plug(RNG)
        assert len(Rng(negotiated(transport(machine, revision))).read(32)) == 32
        machine.unplug("dut")


def test_devices_have_indicators_of_their_own(lab: Lab) -> None:
    machine = lab.s390x(RNG, {"driver": "virtio-rng-ccw", "devno": "fe.0.0006"})
    css = ChannelSubsystem(Cpu(machine.qtest, machine.serial))
    first, second = (VirtioCcw(subchannel, 2) for subchannel in css.scan())
    memory = GuestMemory(machine.qtest)
    entropy = []
    for device in (first, second):
        willing = Driver(device, memory)
        willing.negotiate()
        entropy.append(Rng(willing))
    entropy[1].read(8)
    assert (first.isr_status(), second.isr_status()) == (0, 1)
    assert len(entropy[0].read(8)) == 8
