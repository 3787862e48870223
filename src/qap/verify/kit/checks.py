"""Steps and checks that many tests share."""

from typing import Any

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import mask
from qap.oracle.status import Status
from qap.vhost_user.chain_service import pattern
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

BUFFER = 16
UNPLUG_S = 10.0
RESET_S = 10.0
CHARDEV_S = 20.0
# 3.1.1, steps 2 to 5: what a driver writes to the status, one after the other.
UP_TO_FEATURES_OK = (
    Status.ACKNOWLEDGE,
    Status.ACKNOWLEDGE | Status.DRIVER,
    Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK,
)


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


def virtio_status(machine: Machine) -> dict[str, Any]:
    """x-query-virtio-status of the machine's only virtio device."""
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    answer: dict[str, Any] = machine.qmp.execute("x-query-virtio-status", path=path)
    return answer


def is_broken(machine: Machine) -> bool:
    """Whether the machine's only virtio device says that it is broken."""
    return bool(virtio_status(machine)["broken"])


def accepted_features(machine: Machine) -> list[str]:
    """QEMU's names of the transport features that the only virtio device's driver accepted."""
    shown = virtio_status(machine)["guest-features"]["transports"]
    return [text.partition(":")[0] for text in shown]


def reset_machine(machine: Machine) -> None:
    """Reset it as a guest's reboot does, and wait for the end."""
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event("RESET", lambda _: True, RESET_S)


def unplug_at_reset(machine: Machine) -> None:
    """Unplug the device "dut"; a reset of the machine stands for the guest's consent."""
    machine.qmp.execute("device_del", id="dut")
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", UNPLUG_S)


def wait_chardev(machine: Machine, name: str, *, connected: bool) -> None:
    """Wait until QEMU shows a chardev of a socket as connected, or as disconnected."""

    def looks_so() -> bool:
        listed = machine.qmp.execute("query-chardev")
        (shown,) = [entry["filename"] for entry in listed if entry["label"] == name]
        return shown.startswith("disconnected:") is not connected

    end = "connect" if connected else "disconnect"
    poll_until(lambda: looks_so() or None, CHARDEV_S, lambda: f"QEMU to {end} chardev {name}")


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
