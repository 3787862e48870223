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
from qap.verify.kit.lab import SECTORS, Lab
from qap.verify.kit.migrate import ARRIVED
from qap.verify.kit.moving_driver import ACCEPTED, RUNS_WITHOUT_VERSION_1, STEPS, MovingDriver
from qap.virtio.blk import Blk
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transports import TRANSPORTS, Beside

DISK = ["driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"]
INCOMING = ("-incoming", "defer")


@pytest.fixture
def start(lab: Lab) -> Callable[..., Machine]:
    """Starts a machine with a disk, or the destination of its migration."""

    def started(build: Build | None = None, *options: str) -> Machine:
        variant = TRANSPORTS["ccw 2"]
        spec = variant.spec("virtio-blk", DISK, Beside(extra=options), drive="disk0")
        return replace(lab, build=build or lab.build).start(variant.emulator, spec)

    return started


def driver_on(machine: Machine, revision: int = 2) -> MovingDriver:
    session = MovingQtest(machine.qtest)
    cpu = Cpu(session, machine.serial)
    (subchannel,) = ChannelSubsystem(cpu).scan()
    device = VirtioCcw(subchannel, revision)
    device.reset()
    return MovingDriver(machine, session, device, lambda there: cpu.move(there.serial))


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
    moving = driver_on(start())
    moving.take(STEPS[:taken])
    moving.check()
    assert moving.move(start(None, *INCOMING), lab.folder) == ARRIVED
    moving.take_and_check(STEPS[taken:])


@pytest.mark.parametrize("taken", range(len(STEPS) + 1))
def test_driver_arrives_at_stock_qemu(
    lab: Lab, start: Callable[..., Machine], other: Build, taken: int
) -> None:
    """Also before it has accepted VERSION_1, which stock QEMU then waits for."""
    moving = driver_on(start())
    moving.take(STEPS[:taken])
    moving.check()
    assert moving.move(start(other, *INCOMING), lab.folder) == ARRIVED
    moving.take(STEPS[taken:ACCEPTED])
    moving.take_and_check(STEPS[max(taken, ACCEPTED) :])


def test_legacy_driver_moves_and_keeps_its_order(lab: Lab, start: Callable[..., Machine]) -> None:
    moving = driver_on(start(), 0)
    behaviour = Behaviour(0, sets_features_ok=False)
    driver = Driver(moving.device, GuestMemory(moving.session), behaviour)
    driver.negotiate()
    disk = Blk(driver)
    assert disk.read(3) == bytes(512)
    assert moving.move(start(None, *INCOMING), lab.folder) == ARRIVED
    assert moving.device.config_read(0, 8) == SECTORS.to_bytes(8, "big")
    assert disk.read(3) == bytes(512)


def test_driver_that_runs_without_version_1_keeps_its_order(
    lab: Lab, start: Callable[..., Machine]
) -> None:
    """No driver does, but its rings were little-endian where it started."""
    moving = driver_on(start())
    moving.take_and_check(RUNS_WITHOUT_VERSION_1)
    assert moving.move(start(None, *INCOMING), lab.folder) == ARRIVED
    moving.check()


def test_driver_that_runs_without_version_1_is_refused_by_stock_qemu(
    lab: Lab, start: Callable[..., Machine], other: Build
) -> None:
    """There its rings would be big-endian from one moment to the next."""
    moving = driver_on(start())
    moving.take_and_check(RUNS_WITHOUT_VERSION_1)
    refused = "Failed to load virtio-blk:virtio"
    if not lab.build.project.is_first:
        refused = "VM subsection 'virtio/modern_driver' in 'virtio' does not exist"
    assert refused in moving.move(start(other, *INCOMING), lab.folder)
