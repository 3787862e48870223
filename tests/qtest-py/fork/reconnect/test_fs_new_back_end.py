"""A virtiofs whose back-end is gone serves the next driver with a new one."""

import errno
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from qap.host.debian.loader import HOST
from qap.host.wait import poll_until
from qap.machine import chardev
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import assert_served, driven, negotiated, unplug_at_reset, virtio_status
from qap.verify.kit.lab import Lab
from qap.verify.kit.lost_fs import Asker, asker, failing, server
from qap.verify.kit.migrate import ARRIVED, ENDS, EVENTS
from qap.vhost_user import programs
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import FrontendRequest as R
from qap.virtio import fs
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.fs import Fs, FuseError
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


def mounted(transport: Transport) -> Fs:
    """A new driver, whose session has begun."""
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(MODERN))
    driver.negotiate()
    system = Fs(driver)
    assert system.init() >= (fs.MAJOR, fs.MINOR)
    return system


def plugged(lab: Lab, socket: Path) -> Machine:
    """A machine with the device on PCI, hot-plugged, whose chardev connects again."""
    machine = lab.machine(qtest=True)
    machine.add_socket("fs", socket, reconnects=True)
    machine.plug({**DEVICE, **failing(lab)})
    return machine


def start(lab: Lab, name: str, socket: Path) -> tuple[Machine, Transport]:
    """A machine with the device, whose chardev connects again.

    On PCI it is hot-plugged: at its start, stock QEMU does not wait for such a chardev.
    """
    variant = replace(TRANSPORTS[name], properties={})
    if name == "pci modern":
        machine = plugged(lab, socket)
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


def reconnecting(lab: Lab) -> tuple[Backend, Machine]:
    """A back-end in Python, and a machine whose device it is connected to, again and again."""
    backend = lab.backend("vhost-user-fs")
    lab.backends.clear()
    return backend, plugged(lab, backend.path)


@pytest.mark.parametrize("request_", HANDSHAKE, ids=lambda one: one.name)
def test_back_ends_that_leave_at_once_are_followed_by_another(lab: Lab, request_: R) -> None:
    """Meanwhile QEMU answers about the device, and does not migrate it."""
    backend, machine = reconnecting(lab)
    backend.misbehaviour = [HangUp(request=request_, from_connection=2)]
    driven(machine)
    backend.hang_up()
    wait_connected(machine, backend, TRIES)
    assert virtio_status(machine)
    assert not migrates(machine)
    backend.forget()
    backend.misbehaviour = []
    # It comes only after the whole of HANDSHAKE.
    backend.wait_for(R.SET_VRING_CALL, WAIT_S)
    assert_served(*driven(machine))


def test_back_end_that_is_another_before_the_driver_runs_serves_it(lab: Lab) -> None:
    backend, machine = reconnecting(lab)
    driver = negotiated(machine)
    backend.forget()
    backend.hang_up()
    backend.wait_for(R.SET_VRING_CALL, WAIT_S)
    queue = driver.queue(fs.REQUESTQ)
    driver.start()
    assert_served(driver, queue)


def test_requests_fail_with_a_new_back_end_that_can_not_be_started(lab: Lab) -> None:
    """It lacks a feature of rings that the driver was offered, and has accepted."""
    backend, machine = reconnecting(lab)
    driven(machine)
    backend.features &= ~mask([FeatureBit.EVENT_IDX])
    backend.forget()
    backend.hang_up()
    backend.wait_for(R.SET_VRING_CALL, WAIT_S)
    system = Fs(negotiated(machine, FeatureBit.EVENT_IDX), timeout=WAIT_S)
    with pytest.raises(FuseError) as failed:
        system.init()
    assert failed.value.errno == errno.EIO


def test_session_that_is_lost_does_not_migrate(lab: Lab, tmp_path: Path) -> None:
    """The new virtiofsd has a state to send, which is not what the driver knows."""
    with programs.virtiofsd(lab.folder, tmp_path, HOST, "fs") as first:
        machine, transport = start(lab, "pci modern", first.socket)
        mounted(transport)
    chardev.wait_lost(machine.qmp, "fs")
    lab.owned.enter_context(programs.virtiofsd(lab.folder, tmp_path, HOST, "fs"))
    chardev.wait_connected(machine.qmp, "fs")
    assert not migrates(machine)
    mounted(transport)
    assert migrates(machine)


def test_new_driver_is_served_by_a_new_back_end(lab: Lab) -> None:
    """The old one is not: no other back-end knows the session that it began."""
    backend, machine = reconnecting(lab)
    backend.service = server()
    transport = TRANSPORTS["pci modern"].connect(machine)
    device = asker(transport)
    assert (device.ask(), 0) == device.answer()
    backend.hang_up()
    wait_connected(machine, backend, 2)
    assert (device.ask(), -errno.EIO) == device.answer()
    device = asker(transport)
    assert (device.ask(), 0) == device.answer()


@pytest.mark.parametrize("when", ["in flight", "afterwards"])
def test_killed_virtiofsd_can_be_replaced(lab: Lab, tmp_path: Path, when: str) -> None:
    """The device is unplugged, its chardev is free, and another one serves."""
    first = lab.owned.enter_context(programs.virtiofsd(lab.folder, tmp_path, HOST, "one"))
    machine = lab.machine(qtest=True)
    machine.add_socket("one", first.socket)
    machine.plug({**DEVICE, **failing(lab), "chardev": "one"})
    system = Fs(negotiated(machine))
    assert system.init() >= (fs.MAJOR, fs.MINOR)
    asking = Asker(system.driver, system.requestq, unique=1000)
    if when == "in flight":
        first.process.process.send_signal(signal.SIGSTOP)
        asking.ask()
    first.process.kill()
    first.process.wait(WAIT_S)
    if when == "afterwards":
        asking.ask()
    assert asking.answer()[1] == -errno.EIO
    unplug_at_reset(machine)
    machine.qmp.execute("chardev-remove", id="one")
    second = lab.owned.enter_context(programs.virtiofsd(lab.folder, tmp_path, HOST, "two"))
    machine.add_socket("two", second.socket)
    machine.plug({**DEVICE, **failing(lab), "chardev": "two"})
    assert Fs(negotiated(machine)).init() >= (fs.MAJOR, fs.MINOR)


def migrates(machine: Machine) -> bool:
    """Whether QEMU sends all of the VM, to nobody."""
    machine.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
    machine.qmp.execute("migrate", uri="exec:cat > /dev/null")
    ended = machine.qmp.wait_event("MIGRATION", lambda data: data["status"] in ENDS, WAIT_S)
    return bool(ended["status"] == ARRIVED)


def wait_connected(machine: Machine, backend: Backend, times: int) -> None:
    """Wait until QEMU has connected at least this many times."""
    poll_until(
        lambda: (machine.alive and backend.connections >= times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end",
    )
