"""A virtiofs whose back-end is gone serves the next driver with a new one."""

from dataclasses import replace
from pathlib import Path

import pytest

from qap.host.debian.loader import HOST
from qap.host.wait import poll_until
from qap.machine import chardev
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.checks import assert_served, driven, virtio_status
from qap.verify.kit.lab import Lab
from qap.verify.kit.migrate import ARRIVED, ENDS, EVENTS
from qap.vhost_user import programs
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import FrontendRequest as R
from qap.virtio import fs
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.fs import Fs
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS, Beside

DEVICE: Device = {
    "driver": "vhost-user-fs-pci",
    "id": "dut",
    "bus": "port0",
    "tag": "share",
    "chardev": "fs",
}
# Questions that a session begins with.
HANDSHAKE = (R.GET_FEATURES, R.GET_PROTOCOL_FEATURES, R.GET_QUEUE_NUM)
TRIES = 4
WAIT_S = 10.0


def failing(lab: Lab) -> Device:
    """The property that lets the device see its back-end go; stock QEMU has none."""
    return {} if lab.build.is_base else {"x-fail-requests": True}


def mounted(transport: Transport) -> Fs:
    """A new driver, whose session has begun."""
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(MODERN))
    driver.negotiate()
    system = Fs(driver)
    assert system.init() >= (fs.MAJOR, fs.MINOR)
    return system


def start(lab: Lab, name: str, socket: Path) -> tuple[Machine, Transport]:
    """A machine with the device, whose chardev connects again.

    On PCI it is hot-plugged: at its start, stock QEMU does not wait for such a chardev.
    """
    variant = replace(TRANSPORTS[name], properties={})
    if name == "pci modern":
        machine = lab.machine(qtest=True)
        machine.add_socket("fs", socket, reconnects=True)
        machine.plug({**DEVICE, **failing(lab)})
    else:
        wire = f"socket,id=fs,path={socket},reconnect-ms={chardev.RECONNECT_MS}"
        own = {"chardev": "fs", "tag": "share", **failing(lab)}
        spec = variant.spec("vhost-user-fs", (), Beside(chardevs=[wire]), **own)
        machine = lab.start(variant.emulator, spec)
    return machine, variant.connect(machine)


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize("name", ["pci modern", "mmio 2", "ccw 2"])
def test_new_driver_is_served_by_a_new_virtiofsd(
    lab: Lab, tmp_path: Path, name: str, reset: str
) -> None:
    """The new one has to hear all that a vhost-user session begins with."""
    (tmp_path / "file").write_text("content")
    with programs.virtiofsd(lab.folder, tmp_path, HOST, "fs") as first:
        machine, transport = start(lab, name, first.socket)
        mounted(transport)
    chardev.wait_lost(machine.qmp, "fs")
    if reset == "before":
        transport.reset()
    lab.owned.enter_context(programs.virtiofsd(lab.folder, tmp_path, HOST, "fs"))
    chardev.wait_connected(machine.qmp, "fs")
    assert mounted(transport).lookup(fs.ROOT, "file").size == len("content")


@pytest.mark.parametrize("request_", HANDSHAKE, ids=lambda one: one.name)
def test_back_ends_that_leave_at_once_are_followed_by_another(lab: Lab, request_: R) -> None:
    """Meanwhile QEMU answers about the device, and does not migrate it."""
    backend = lab.backend("vhost-user-fs")
    backend.misbehaviour = [HangUp(request=request_, from_connection=2)]
    lab.backends.clear()
    machine = lab.machine(qtest=True)
    machine.add_socket("fs", backend.path, reconnects=True)
    machine.plug({**DEVICE, **failing(lab)})
    driven(machine)
    backend.hang_up()
    wait_connected(machine, backend, TRIES)
    assert virtio_status(machine)
    machine.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
    machine.qmp.execute("migrate", uri="exec:cat > /dev/null")
    machine.qmp.wait_event("MIGRATION", lambda data: data.get("status") in ENDS, WAIT_S)
    assert machine.qmp.execute("query-migrate")["status"] != ARRIVED
    backend.forget()
    backend.misbehaviour = []
    # It comes only after the whole of HANDSHAKE.
    backend.wait_for(R.SET_VRING_CALL, WAIT_S)
    assert_served(*driven(machine))


def wait_connected(machine: Machine, backend: Backend, times: int) -> None:
    """Wait until QEMU has connected this many times."""
    poll_until(
        lambda: (machine.alive and backend.connections >= times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end",
    )
