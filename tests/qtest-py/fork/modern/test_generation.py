"""A driver that reads configuration before DRIVER_OK notices that it changes meanwhile."""

from pathlib import Path

import pytest

from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK
from qap.verify.kit.lab import SECTORS, Lab
from qap.virtio.transports import TRANSPORTS

SECTOR = 512
GROWN = 2 * SECTORS
# Before and between a driver's first steps (3.1.1), and once it runs.
EARLY = [Status(0), *UP_TO_FEATURES_OK]
RUNS = UP_TO_FEATURES_OK[-1] | Status.DRIVER_OK
Variants = pytest.mark.parametrize("variant", ["pci modern", "mmio 2"])


@Variants
@pytest.mark.parametrize("status", EARLY)
def test_early_driver_sees_another_generation(
    lab: Lab, disk: Path, variant: str, status: Status
) -> None:
    """4.1.4.3.1 and 4.2.2.1: it changes with what was read before, whoever reads."""
    sees_another_generation(lab, disk, variant, status)


@Variants
def test_running_driver_sees_another_generation(lab: Lab, disk: Path, variant: str) -> None:
    sees_another_generation(lab, disk, variant, RUNS)


def sees_another_generation(lab: Lab, disk: Path, variant: str, status: Status) -> None:
    """Check the generation of a disk that grows between two reads."""
    way = TRANSPORTS[variant]
    blockdevs = [f"driver=file,node-name=disk0,filename={disk}"]
    machine = lab.start(way.emulator, way.spec("virtio-blk", blockdevs, drive="disk0"))
    device = way.connect(machine)
    device.reset()
    device.set_status(status)
    before, generation = device.config_read(0, 8), device.config_generation
    assert int.from_bytes(before, "little") == SECTORS
    machine.qmp.execute("block_resize", node_name="disk0", size=GROWN * SECTOR)
    after = device.config_read(0, 8)
    assert int.from_bytes(after, "little") == GROWN
    assert device.config_generation != generation
