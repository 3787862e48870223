"""The same as test_config_migration, where a guest's PCI or MMIO device is big-endian by default.

zPCI functions can't migrate, and MMIO needs another target than s390x.
"""

import pytest

from qap.machine.machine import Machine
from qap.machine.qtest_follow import MovingQtest
from qap.verify.kit.big_endian import BigEndian, Bus, reached
from qap.verify.kit.migrate import ARRIVED
from qap.verify.kit.moving_driver import (
    ACCEPTED,
    ACCEPTED_ON_MMIO,
    RUNS_WITHOUT_VERSION_1,
    STEPS,
    MovingDriver,
)

INCOMING = ("-incoming", "defer")
# Until it has accepted VERSION_1, on each bus; stock QEMU knows from there on.
UNKNOWN: dict[Bus, int] = {"pci": ACCEPTED, "mmio": ACCEPTED_ON_MMIO}
EARLY = [(bus, taken) for bus, accepted in UNKNOWN.items() for taken in range(accepted)]
LATE = [
    (bus, taken) for bus, accepted in UNKNOWN.items() for taken in range(accepted, len(STEPS) + 1)
]
Buses = pytest.mark.parametrize("bus", UNKNOWN)


def driver_on(machine: Machine, bus: Bus) -> MovingDriver:
    session = MovingQtest(machine.qtest)
    device = reached(session, bus)
    device.reset()
    return MovingDriver(machine, session, device)


@pytest.mark.parametrize(("bus", "taken"), EARLY)
def test_driver_reads_the_same_where_it_arrives(
    big_endian: BigEndian, bus: Bus, taken: int
) -> None:
    reads_the_same(big_endian, bus, taken)


@pytest.mark.parametrize(("bus", "taken"), LATE)
def test_driver_that_accepted_version_1_reads_the_same(
    big_endian: BigEndian, bus: Bus, taken: int
) -> None:
    reads_the_same(big_endian, bus, taken)


def reads_the_same(big_endian: BigEndian, bus: Bus, taken: int) -> None:
    """Check what a driver reads that migrates after so many steps."""
    moving = driver_on(big_endian.start("virtio-blk", bus), bus)
    moving.take(STEPS[:taken])
    moving.check()
    there = big_endian.start("virtio-blk", bus, *INCOMING)
    assert moving.move(there, big_endian.lab.folder) == ARRIVED
    moving.take_and_check(STEPS[taken:])


@pytest.mark.parametrize(("bus", "taken"), [*EARLY, *LATE])
def test_driver_arrives_at_stock_qemu(both: BigEndian, bus: Bus, taken: int) -> None:
    """Also before it has accepted VERSION_1, which stock QEMU then waits for."""
    moving = driver_on(both.start("virtio-blk", bus), bus)
    moving.take(STEPS[:taken])
    moving.check()
    there = both.start("virtio-blk", bus, *INCOMING, other=True)
    assert moving.move(there, both.lab.folder) == ARRIVED
    moving.take(STEPS[taken : UNKNOWN[bus]])
    moving.take_and_check(STEPS[max(taken, UNKNOWN[bus]) :])


@Buses
def test_driver_that_runs_without_version_1_keeps_its_order(
    big_endian: BigEndian, bus: Bus
) -> None:
    """No driver does, but its rings were little-endian where it started."""
    moving = driver_on(big_endian.start("virtio-blk", bus), bus)
    moving.take_and_check(RUNS_WITHOUT_VERSION_1)
    there = big_endian.start("virtio-blk", bus, *INCOMING)
    assert moving.move(there, big_endian.lab.folder) == ARRIVED
    moving.check()


@Buses
def test_driver_that_runs_without_version_1_is_refused_by_stock_qemu(
    both: BigEndian, bus: Bus
) -> None:
    """There its rings would be big-endian from one moment to the next."""
    moving = driver_on(both.start("virtio-blk", bus), bus)
    moving.take_and_check(RUNS_WITHOUT_VERSION_1)
    there = both.start("virtio-blk", bus, *INCOMING, other=True)
    assert "Failed to load virtio-blk:virtio" in moving.move(there, both.lab.folder)
