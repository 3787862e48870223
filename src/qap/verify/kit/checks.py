"""Steps and checks that many tests share."""

from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.vhost_user.chain_service import pattern
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

BUFFER = 16


def driven(machine: Machine) -> tuple[Driver, Queue]:
    """Drive the machine's only virtio function up to DRIVER_OK; returns driver and queue 0."""
    driver = Driver(PciModern(PciBus(machine.qtest).find(VENDOR_ID)), GuestMemory(machine.qtest))
    driver.negotiate()
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
