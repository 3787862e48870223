"""The life cycle of a machine, and errors when QEMU ends."""

import time

import pytest

from qap.machine.machine import QemuDied
from qap.verify.kit.lab import Lab


def test_wait_for_an_event_ends_with_qemu(lab: Lab) -> None:
    machine = lab.machine()
    start = time.monotonic()
    machine.qmp.execute("quit")
    with pytest.raises(QemuDied, match="with status 0"):
        machine.qmp.wait_event("DEVICE_DELETED", lambda data: True, 60)
    assert time.monotonic() - start < 30


def test_unplug_tells_that_qemu_ended(lab: Lab) -> None:
    """The guest never completes the unplug, and QEMU ends meanwhile."""
    machine = lab.machine({"driver": "virtio-rng-pci", "bus": "port0", "id": "dut"})
    machine.process.kill()
    with pytest.raises(QemuDied):
        machine.unplug("dut", 60)


def test_event_from_before_the_end_is_still_there(lab: Lab) -> None:
    machine = lab.machine()
    machine.qmp.execute("quit")
    assert machine.qmp.wait_event("SHUTDOWN", lambda data: True, 60)["reason"] == "host-qmp-quit"
