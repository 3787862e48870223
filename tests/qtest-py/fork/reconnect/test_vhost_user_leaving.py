"""A vhost-user back-end that disconnects at any time: QEMU must go on."""

import pytest

from qap.host.wait import poll_until
from qap.machine.catalog import vhost_user_types
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.verify.kit.checks import assert_lives, assert_served, driven
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import FrontendRequest

R = FrontendRequest

# A device type for each way in which QEMU's devices connect and start.
KINDS = ("vhost-user-blk", "vhost-user-fs", "vhost-user-rng", "vhost-user-scsi", "vhost-user-vsock")
WAIT_S = 20


def plugged(lab: Lab, kind: str) -> tuple[Backend, Machine]:
    """A machine with a cold-plugged device of this type."""
    backend = lab.backend(kind)
    properties, options = vhost_user_types()[kind].pci(backend.path.stem)
    machine = lab.machine({**properties, "bus": "port0"}, qtest=True, extra=options)
    return backend, machine


def wait_connected(machine: Machine, backend: Backend, times: int) -> None:
    """Wait until QEMU has connected this many times."""
    poll_until(
        lambda: (machine.alive and backend.connections == times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end",
    )


@pytest.mark.parametrize("kind", vhost_user_types())
def test_back_end_may_leave_before_the_driver_comes(lab: Lab, kind: str) -> None:
    backend, machine = plugged(lab, kind)
    backend.hang_up()
    assert_lives(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_back_end_may_leave_a_running_device(lab: Lab, kind: str) -> None:
    backend, machine = plugged(lab, kind)
    driver, queue = driven(machine)
    assert_served(driver, queue)
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
def test_back_end_may_leave_while_it_is_started(lab: Lab, kind: str, request_: R) -> None:
    backend, machine = plugged(lab, kind)
    backend.misbehaviour = [HangUp(request=request_)]
    driver, _ = driven(machine)
    assert_lives(machine)
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_back_end_may_leave_while_it_is_stopped(lab: Lab, kind: str) -> None:
    backend, machine = plugged(lab, kind)
    driver, _ = driven(machine)
    backend.misbehaviour = [HangUp(request=R.GET_VRING_BASE)]
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize("kind", ["vhost-user-blk", "vhost-user-scsi", "vhost-user-rng"])
def test_back_end_that_comes_back_serves_on(lab: Lab, kind: str) -> None:
    """The chardev reconnects, and the ring goes on at its last position."""
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
    assert_served(driver, queue)
    backend.hang_up()
    wait_connected(machine, backend, 2)
    assert_served(driver, queue)
    assert_lives(machine)
