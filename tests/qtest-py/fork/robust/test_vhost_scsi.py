"""vhost-scsi, whose kernel is a shared library here."""

from dataclasses import replace

import pytest

from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.status import Status
from qap.verify.kit.fake_vhost import VHOST_FD, fake_vhost
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.split import split_areas
from qap.virtio.transports import TRANSPORTS

WWPN = "naa.5001405324af0985"
QUEUES = 3
# A ring of this size does not fit a bounce buffer, which QEMU takes where there is no memory.
SIZE = 1024
NO_MEMORY = 0x7000_0000


@pytest.fixture
def machine(lab: Lab) -> Machine:
    """A machine with vhost-scsi-pci."""
    spec = TRANSPORTS["pci modern"].spec("vhost-scsi", vhostfd=str(VHOST_FD), wwpn=WWPN)
    binary = lab.build.path("qemu-system-x86_64")
    wrapper = fake_vhost(lab.folder)
    started = Machine(binary, spec, log=lab.log(), wrapper=wrapper)
    return lab.owned.enter_context(started)


@pytest.mark.parametrize("area", ["desc", "device"])
def test_ring_that_can_not_be_mapped_is_not_started(machine: Machine, area: str) -> None:
    transport = TRANSPORTS["pci modern"].connect(machine)
    driver = Driver(transport, GuestMemory(machine.qtest))
    driver.negotiate()
    for index in range(QUEUES):
        areas = split_areas(driver.memory, SIZE)
        transport.enable_queue(index, replace(areas, **{area: NO_MEMORY}))
    driver.start()
    assert machine.alive
    assert "unable to start vhost-scsi" in machine.process.tail()
    assert Status.FEATURES_OK in driver.negotiate()
    for index in range(QUEUES):
        driver.queue(index, 16)
    assert Status.DRIVER_OK in driver.start()
    assert machine.alive
