"""A vhost-user back-end that leaves at any time: QEMU lives on, and the device with it or not."""

from typing import Any

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import pattern
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

R = FrontendRequest

# One of each way that QEMU's devices connect and start.
KINDS = ("vhost-user-blk", "vhost-user-fs", "vhost-user-rng", "vhost-user-scsi", "vhost-user-vsock")
WAIT_S = 20


def plugged(lab: Any, kind: str) -> tuple[Backend, Machine]:
    """A machine with a cold-plugged device of this type."""
    backend = lab.backend(kind)
    properties, options = vhost_user_types()[kind].pci(backend.path.stem)
    machine = lab.machine({**properties, "bus": "port0"}, qtest=True, extra=options)
    return backend, machine


def driven(machine: Machine) -> tuple[Driver, Queue]:
    """A driver of the machine's only virtio function up to DRIVER_OK, and its first queue."""
    driver = Driver(PciModern(PciBus(machine.qtest).find(VENDOR_ID)), GuestMemory(machine.qtest))
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    return driver, queue


def served(driver: Driver, queue: Queue) -> None:
    """Have the device fill a buffer, and look that it did."""
    address = driver.memory.take(16)
    assert driver.serve(queue, [Buffer(address, 16, writable=True)]).length == 16
    assert driver.memory.read(address, 16) == pattern(16)


def assert_lives(machine: Machine, rounds: int = 5) -> None:
    """QEMU answers, and its main loop goes round without an accident that was put off."""
    for _ in range(rounds):
        assert machine.alive
        machine.qtest.clock_step(1000)


def wait_connected(machine: Machine, backend: Backend, times: int) -> None:
    """Wait until QEMU has connected so many times."""
    poll_until(
        lambda: (machine.alive and backend.connections == times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end",
    )


@pytest.mark.parametrize("kind", vhost_user_types())
def test_back_end_may_leave_before_the_driver_comes(lab: Any, kind: str) -> None:
    backend, machine = plugged(lab, kind)
    backend.hang_up()
    assert_lives(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_back_end_may_leave_a_running_device(lab: Any, kind: str) -> None:
    backend, machine = plugged(lab, kind)
    driver, queue = driven(machine)
    served(driver, queue)
    backend.hang_up()
    assert_lives(machine)
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize(
    "request_",
    [R.SET_FEATURES, R.SET_MEM_TABLE, R.SET_VRING_ADDR, R.SET_VRING_ENABLE],
    ids=lambda request_: request_.name,
)
@pytest.mark.parametrize("kind", KINDS)
def test_back_end_may_leave_while_it_is_started(lab: Any, kind: str, request_: R) -> None:
    backend, machine = plugged(lab, kind)
    backend.misbehaviour = [HangUp(request=request_)]
    driver, _ = driven(machine)
    assert_lives(machine)
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_back_end_may_leave_while_it_is_stopped(lab: Any, kind: str) -> None:
    backend, machine = plugged(lab, kind)
    driver, _ = driven(machine)
    backend.misbehaviour = [HangUp(request=R.GET_VRING_BASE)]
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize("kind", ["vhost-user-blk", "vhost-user-scsi", "vhost-user-rng"])
def test_back_end_that_comes_back_serves_on(lab: Any, kind: str) -> None:
    """The chardev reconnects, and the ring goes on where it was."""
    backend = lab.backend(kind)
    lab.backends.clear()
    machine = lab.machine(qtest=True)
    address = {"type": "unix", "data": {"path": str(backend.path)}}
    socket = {"addr": address, "server": False, "reconnect-ms": 10}
    chardev = {"type": "socket", "data": socket}
    machine.qmp.execute("chardev-add", id=backend.path.stem, backend=chardev)
    device: Device = {**vhost_user_types()[kind].pci(backend.path.stem)[0], "bus": "port0"}
    wait_connected(machine, backend, 1)
    machine.plug(device)
    driver, queue = driven(machine)
    served(driver, queue)
    backend.hang_up()
    wait_connected(machine, backend, 2)
    served(driver, queue)
    assert_lives(machine)
