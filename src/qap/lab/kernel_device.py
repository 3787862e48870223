"""What L1's kernel needs to have before a QEMU in L1 can use a device of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from qap.lab.l1 import L1
from qap.lab.scsi_target import scsi_target
from qap.lab.tap import tap
from qap.lab.vdpa import VduseDisk
from qap.machine.catalog import Kernel

SECTORS = 2048
SECTOR = 512


@contextmanager
def behind(l1: L1, kernel: Kernel) -> Iterator[None]:
    """What is behind a device (configs/devices.toml), in L1 until the context ends.

    Raises:
        GuestCommandError: some of it is there already.
    """
    with ExitStack() as owned:
        if kernel.tap:
            owned.enter_context(tap(l1, kernel.tap))
        if kernel.scsi_target:
            owned.enter_context(scsi_target(l1, kernel.scsi_target))
        if kernel.vdpa_disk:
            owned.enter_context(VduseDisk(l1, bytes(SECTORS * SECTOR)))
        yield
