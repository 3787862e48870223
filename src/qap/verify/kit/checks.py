"""Steps and checks that many tests share."""

from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import mask
from qap.vhost_user.chain_service import pattern
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

BUFFER = 16


def negotiated(machine: Machine, *extra: int) -> Driver:
    """A driver of the machine's only virtio function that has accepted its features.

    Args:
        extra: feature bits that it supports beside those of every modern driver.
    """
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    behaviour = Behaviour(supports=MODERN | mask(extra))
    driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
    driver.negotiate()
    return driver


def driven(machine: Machine) -> tuple[Driver, Queue]:
    """Drive the machine's only virtio function up to DRIVER_OK; returns driver and queue 0."""
    driver = negotiated(machine)
    queue = driver.queue(0)
    driver.start()
    return driver, queue


def assert_served(driver: Driver, queue: Queue) -> None:
    """Check that a back-end in Python fills a buffer."""
    address = driver.memory.take(BUFFER)
    assert driver.serve(queue, [Buffer(address, BUFFER, writable=True)]).length == BUFFER
    assert driver.memory.read(address, BUFFER) == pattern(BUFFER)


def assert_lives(machine: Machine, rounds: int = 5) -> None:
    """Check that QEMU still answers after its main loop has run some more times."""
    for _ in range(rounds):
        assert machine.alive
        machine.qtest.clock_step(1000)
