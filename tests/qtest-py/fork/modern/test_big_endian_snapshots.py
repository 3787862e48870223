"""A snapshot that is loaded brings the order that its driver had, whoever came after it."""

import pytest

from qap.oracle.config import Order
from qap.verify.kit.big_endian import BigEndian, Bus, reached
from qap.verify.kit.lab import SECTORS
from qap.verify.kit.moving_driver import RUNS_WITHOUT_VERSION_1
from qap.verify.kit.snapshot import Snapshots
from qap.virtio.transport import Transport

SIZE = 8


def shown(device: Transport) -> Order:
    """The order in which a disk shows its capacity."""
    orders: tuple[Order, ...] = ("little", "big")
    by_bytes = {SECTORS.to_bytes(SIZE, order): order for order in orders}
    return by_bytes[device.config_read(0, SIZE)]


@pytest.fixture
def kept(big_endian: BigEndian) -> Snapshots:
    """A file for a snapshot."""
    lab = big_endian.lab
    return Snapshots.made(lab.folder / "kept.qcow2", lab.build)


def test_legacy_driver_comes_back_after_a_modern_one(
    big_endian: BigEndian, kept: Snapshots
) -> None:
    machine = big_endian.start("virtio-blk", "pci", *kept.options)
    legacy = reached(machine.qtest, "pci", "legacy")
    legacy.reset()
    assert shown(legacy) == "big"
    kept.save(machine)
    modern = reached(machine.qtest, "pci")
    modern.reset()
    assert shown(modern) == "little"
    kept.load(machine)
    assert shown(legacy) == "big"


def test_modern_driver_comes_back_after_a_legacy_one(
    big_endian: BigEndian, kept: Snapshots
) -> None:
    machine = big_endian.start("virtio-blk", "pci", *kept.options)
    modern = reached(machine.qtest, "pci")
    modern.reset()
    assert shown(modern) == "little"
    kept.save(machine)
    legacy = reached(machine.qtest, "pci", "legacy")
    legacy.reset()
    assert shown(legacy) == "big"
    kept.load(machine)
    assert shown(modern) == "little"


@pytest.mark.parametrize("bus", ["pci", "mmio"])
def test_driver_that_runs_without_version_1_comes_back(
    big_endian: BigEndian, kept: Snapshots, bus: Bus
) -> None:
    machine = big_endian.start("virtio-blk", bus, *kept.options)
    device = reached(machine.qtest, bus)
    device.reset()
    for step in RUNS_WITHOUT_VERSION_1:
        step(device)
    kept.save(machine)
    device.reset()
    kept.load(machine)
    assert shown(device) == "little"
