"""What many tests do with a device, and look at."""

from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.vhost_user.chain_service import pattern
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

BUFFER = 16


def driven(machine: Machine) -> tuple[Driver, Queue]:
    """A driver of the machine's only virtio function up to DRIVER_OK, and its first queue."""
    driver = Driver(PciModern(PciBus(machine.qtest).find(VENDOR_ID)), GuestMemory(machine.qtest))
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    return driver, queue


def assert_served(driver: Driver, queue: Queue) -> None:
    """Have a back-end in Python fill a buffer, and look that it did."""
    address = driver.memory.take(BUFFER)
    assert driver.serve(queue, [Buffer(address, BUFFER, writable=True)]).length == BUFFER
    assert driver.memory.read(address, BUFFER) == pattern(BUFFER)


def assert_lives(machine: Machine, rounds: int = 5) -> None:
    """QEMU answers, and its main loop goes round without an accident that was put off."""
    for _ in range(rounds):
        assert machine.alive
        machine.qtest.clock_step(1000)
