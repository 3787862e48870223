"""A driver that reads configuration before its device is started sees what the back-end changes."""

import pytest

from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK, assert_lives
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.transports import TRANSPORTS

SIZE = 8
DISK = "vhost-user-blk"
EARLY = [Status(0), *UP_TO_FEATURES_OK]
# They read again at the back-end's word for it, or each time.
AWARE = [f"vhost-user-{name}" for name in ("gpio", "input", "snd", "vsock")]


@pytest.mark.parametrize("status", EARLY)
def test_early_driver_of_a_disk_sees_a_change(lab: Lab, status: Status) -> None:
    sees_a_change(lab, DISK, status)


@pytest.mark.parametrize("kind", AWARE)
def test_early_driver_of_another_device_sees_a_change(lab: Lab, kind: str) -> None:
    sees_a_change(lab, kind, UP_TO_FEATURES_OK[1])


def sees_a_change(lab: Lab, kind: str, status: Status) -> None:
    """Check what a driver with this status reads before and after a change."""
    row = vhost_user_types()[kind]
    assert row.vhost_user
    size = row.vhost_user.config
    backend = lab.backend(kind, config=bytes([1] * size))
    machine = lab.cold_plugged(kind, backend, "pci modern")
    device = TRANSPORTS["pci modern"].connect(machine)
    device.reset()
    device.set_status(status)
    before, generation = device.config_read(0, SIZE), device.config_generation
    backend.change_config(bytes([2] * size))
    backend.settle()
    machine.qtest.endianness()
    assert device.config_read(0, SIZE) == bytes([2] * SIZE) != before
    assert device.config_generation != generation


@pytest.mark.parametrize("kind", AWARE)
def test_change_after_the_stop_ends_nothing(lab: Lab, kind: str) -> None:
    """A driver that resets the device has stopped it."""
    lives_on(lab, kind)


def test_change_after_the_stop_of_a_disk_ends_nothing(lab: Lab) -> None:
    lives_on(lab, DISK)


def lives_on(lab: Lab, kind: str) -> None:
    """Check that QEMU lives if a device's back-end changes its configuration after the stop."""
    backend = lab.backend(kind)
    machine = lab.cold_plugged(kind, backend, "pci modern")
    device = TRANSPORTS["pci modern"].connect(machine)
    driver = Driver(device, GuestMemory(machine.qtest))
    driver.negotiate()
    driver.queue(0)
    driver.start()
    device.reset()
    backend.front_end.config_change()
    assert_lives(machine)
