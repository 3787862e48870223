"""A driver of a disk that migrates with its VM on the way to DRIVER_OK, and reads on both sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qap.machine.machine import Machine
from qap.machine.qtest_follow import MovingQtest
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK
from qap.verify.kit.lab import SECTORS
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.virtio.transport import Transport

FEATURES = mask([FeatureBit.VERSION_1])
Step = Callable[[Transport], None]
# A driver's steps after a reset; it may migrate before or after any of them.
STEPS: Sequence[Step] = [
    lambda device: device.set_status(UP_TO_FEATURES_OK[0]),
    lambda device: device.set_status(UP_TO_FEATURES_OK[1]),
    lambda device: device.set_driver_feature_word(0, 0),
    lambda device: device.set_driver_feature_word(1, FEATURES >> 32),
    lambda device: device.set_status(UP_TO_FEATURES_OK[2]),
    lambda device: device.set_status(UP_TO_FEATURES_OK[2] | Status.DRIVER_OK),
]
# How many of them it takes until it has accepted VERSION_1: on PCI and CCW at the feature word,
# on MMIO at FEATURES_OK.
ACCEPTED, ACCEPTED_ON_MMIO = 4, 5
# DRIVER_OK without any feature; no known driver does that.
RUNS_WITHOUT_VERSION_1: Sequence[Step] = [
    *STEPS[:2],
    lambda device: device.set_status(UP_TO_FEATURES_OK[1] | Status.DRIVER_OK),
]


@dataclass
class MovingDriver:
    """A driver of a disk of SECTORS sectors, which has been reset.

    Attributes:
        machine: the one that has the VM.
        session: by which `device` reaches it.
        device: the disk.
        follow: is told of the machine to which the VM has migrated.
    """

    machine: Machine
    session: MovingQtest
    device: Transport
    follow: Callable[[Machine], None] = lambda machine: None

    def take(self, steps: Sequence[Step]) -> None:
        """Take steps without a look at the disk."""
        for step in steps:
            step(self.device)

    def take_and_check(self, steps: Sequence[Step]) -> None:
        """Take steps; raises as `check` does, before or after each."""
        self.check()
        for step in steps:
            step(self.device)
            self.check()

    def check(self) -> None:
        """Check what the disk shows.

        Raises:
            AssertionError: not little-endian SECTORS.
        """
        shown = self.device.config_read(0, 8)
        assert shown == SECTORS.to_bytes(8, "little"), shown.hex()

    def move(self, destination: Machine, folder: Path) -> str:
        """Migrate; returns ARRIVED, or what the destination said; see `migrate`."""
        said = migrate(self.machine, destination, folder)
        if said == ARRIVED:
            self.machine = destination
            self.session.now = destination.qtest
            self.follow(destination)
        return said
