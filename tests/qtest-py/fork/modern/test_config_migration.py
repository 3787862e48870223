"""A driver that migrates between its first access and DRIVER_OK reads the same bytes there."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from qap.fork.build import Build
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.machine.qtest_follow import MovingQtest
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK
from qap.verify.kit.lab import Lab
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.virtio.blk import Blk
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transports import TRANSPORTS, Beside

DISK = ["driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"]
CAPACITY = 2048
FEATURES = mask([FeatureBit.VERSION_1])
# A driver's steps to FEATURES_OK; it may migrate after any of them.
STEPS: list[Callable[[VirtioCcw], None]] = [
    lambda device: device.set_status(UP_TO_FEATURES_OK[0]),
    lambda device: device.set_status(UP_TO_FEATURES_OK[1]),
    lambda device: device.set_driver_feature_word(0, 0),
    lambda device: device.set_driver_feature_word(1, FEATURES >> 32),
    lambda device: device.set_status(UP_TO_FEATURES_OK[2]),
    lambda device: device.set_status(UP_TO_FEATURES_OK[2] | Status.DRIVER_OK),
]
# From here on stock QEMU knows, too.
ACCEPTED = 4


@pytest.fixture
def start(lab: Lab) -> Callable[..., Machine]:
    """Starts a machine with a disk, or the destination of its migration."""

    def started(build: Build | None = None, *options: str) -> Machine:
        variant = TRANSPORTS["ccw 2"]
        spec = variant.spec("virtio-blk", DISK, Beside(extra=options), drive="disk0")
        return replace(lab, build=build or lab.build).start(variant.emulator, spec)

    return started


class Moving:
    """A driver of the disk that moves with its VM."""

    def __init__(self, machine: Machine, revision: int = 2) -> None:
        self.machine = machine
        self.session = MovingQtest(machine.qtest)
        self.cpu = Cpu(self.session, machine.serial)
        (subchannel,) = ChannelSubsystem(self.cpu).scan()
        self.device = VirtioCcw(subchannel, revision)
        self.device.reset()

    def move(self, lab: Lab, destination: Machine) -> None:
        assert migrate(self.machine, destination, lab.folder) == ARRIVED
        self.machine = destination
        self.session.now = destination.qtest
        self.cpu.move(destination.serial)

    @property
    def capacity(self) -> int:
        return int.from_bytes(self.device.config_read(0, 8), "little")


@pytest.mark.parametrize("taken", range(ACCEPTED))
def test_driver_reads_the_same_where_it_arrives(
    lab: Lab, start: Callable[..., Machine], taken: int
) -> None:
    reads_the_same(lab, start, taken)


@pytest.mark.parametrize("taken", range(ACCEPTED, len(STEPS) + 1))
def test_driver_that_accepted_version_1_reads_the_same(
    lab: Lab, start: Callable[..., Machine], taken: int
) -> None:
    reads_the_same(lab, start, taken)


def reads_the_same(lab: Lab, start: Callable[..., Machine], taken: int) -> None:
    """Check what a driver reads that migrates after so many steps."""
    moving = Moving(start())
    for step in STEPS[:taken]:
        step(moving.device)
    assert moving.capacity == CAPACITY
    moving.move(lab, start(None, "-incoming", "defer"))
    assert moving.capacity == CAPACITY
    for step in STEPS[taken:]:
        step(moving.device)
        assert moving.capacity == CAPACITY


@pytest.mark.parametrize("taken", range(len(STEPS) + 1))
def test_driver_arrives_at_stock_qemu(
    lab: Lab, start: Callable[..., Machine], other: Build, taken: int
) -> None:
    """Also before it has accepted VERSION_1, which stock QEMU then waits for."""
    moving = Moving(start())
    for step in STEPS[:taken]:
        step(moving.device)
    assert moving.capacity == CAPACITY
    moving.move(lab, start(other, "-incoming", "defer"))
    for step in STEPS[taken:ACCEPTED]:
        step(moving.device)
    assert moving.capacity == CAPACITY


def test_legacy_driver_moves_and_keeps_its_order(lab: Lab, start: Callable[..., Machine]) -> None:
    moving = Moving(start(), 0)
    behaviour = Behaviour(0, sets_features_ok=False)
    driver = Driver(moving.device, GuestMemory(moving.session), behaviour)
    driver.negotiate()
    disk = Blk(driver)
    assert disk.read(3) == bytes(512)
    moving.move(lab, start(None, "-incoming", "defer"))
    assert moving.capacity == int.from_bytes(CAPACITY.to_bytes(8, "big"), "little")
    assert disk.read(3) == bytes(512)


def test_driver_that_runs_without_version_1_keeps_its_order(
    lab: Lab, start: Callable[..., Machine]
) -> None:
    """No driver does, but its rings were little-endian where it started."""
    moving = Moving(start())
    for step in (STEPS[0], STEPS[1]):
        step(moving.device)
    assert moving.capacity == CAPACITY
    moving.device.set_status(UP_TO_FEATURES_OK[1] | Status.DRIVER_OK)
    moving.move(lab, start(None, "-incoming", "defer"))
    assert moving.capacity == CAPACITY
