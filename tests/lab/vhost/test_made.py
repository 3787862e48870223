"""What the lab makes for the kernel's vhost is gone afterwards."""

import pytest

from qap.lab.l1 import L1
from qap.lab.scsi_target import CONFIG, scsi_target
from qap.lab.tap import tap
from qap.machine.guest.console import GuestCommandError

TAP, TARGET = "tap9", "naa.5001405000000009"


def test_tap_is_there_once_and_then_gone(l1: L1) -> None:
    with tap(l1, TAP):
        l1.check(f"test -d /sys/class/net/{TAP}")
    l1.check(f"! test -d /sys/class/net/{TAP}")


def test_target_is_there_once_and_then_gone(l1: L1) -> None:
    files = f"/run/{TARGET}.img {l1.folder}/{TARGET}.img"
    folders = f"{CONFIG}/target/vhost/{TARGET} {CONFIG}/target/core/fileio_0/{TARGET}"
    with scsi_target(l1, TARGET):
        l1.check(f"ls {files} {folders}")
    for path in f"{files} {folders}".split():
        l1.check(f"! test -e {path}")


def test_target_that_can_not_be_made_leaves_nothing(l1: L1) -> None:
    with pytest.raises(GuestCommandError), scsi_target(l1, "no-name-of-a-port"):
        pass
    l1.check(f"! test -e {CONFIG}/target/core/fileio_0/no-name-of-a-port")
