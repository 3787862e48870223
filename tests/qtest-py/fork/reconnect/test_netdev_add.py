"""A vhost-user netdev is added while its back-end is unfit, leaves, or is not there yet."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine import machine as machines
from qap.machine import qmp
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.qmp import QmpRefused
from qap.verify.kit.checks import assert_served, wait_chardev
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import HangUp
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern

KIND = "vhost-user-net"
# For what never ends on stock QEMU.
GIVEN_UP_S = 8.0
WAIT_S = 20.0
# Longer than a main loop that turns takes to answer.
SILENT_S = 0.5
MANY = 12
# Longer than a thread that adds may take to begin.
TURNS_S = 2.0
NETDEV = {"type": "vhost-user", "id": "net0"}
DEVICE = {"driver": "virtio-net-pci", "netdev": "net0", "bus": "port0", "disable-legacy": "on"}


@pytest.fixture(autouse=True)
def gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "COMMAND_S", GIVEN_UP_S)
    monkeypatch.setattr(machines, "START_S", GIVEN_UP_S)


def add(machine: Machine, behind: Backend, **arguments: object) -> None:
    machine.qmp.execute("netdev_add", **NETDEV, chardev=behind.path.stem, **arguments)


@contextmanager
def adding(machine: Machine, behind: Backend) -> Iterator["Future[None]"]:
    """netdev_add in a thread of its own."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit(add, machine, behind)


def turns(machine: Machine) -> None:
    """Check that the main loop turns for a while: it answers on its qtest socket."""
    until = time.monotonic() + TURNS_S

    def turn() -> None:
        while time.monotonic() < until:
            machine.qtest.endianness()

    with ThreadPoolExecutor() as pool:
        turning = pool.submit(turn)
        try:
            turning.result(GIVEN_UP_S)
        except TimeoutError:
            machine.process.kill()
            pytest.fail("the main loop does not turn")


def assert_network_is_served(machine: Machine) -> None:
    machine.plug(DEVICE)
    driver = Driver(PciModern(PciBus(machine.qtest).find(VENDOR_ID)), GuestMemory(machine.qtest))
    driver.negotiate()
    queue, _ = driver.queue(0), driver.queue(1)
    driver.start()
    assert_served(driver, queue)


def test_unfit_back_end_fails_netdev_add_at_once(lab: Lab) -> None:
    """It has fewer queues than the netdev."""
    behind = lab.backend(KIND)
    behind.queues = 1
    machine = lab.machine()
    try:
        with pytest.raises(QmpRefused, match=r"chardev 'vhost-user-net-0' can't be used"):
            add(machine, behind, queues=2)
    except TimeoutError:
        pytest.fail(f"netdev_add did not end, after {behind.connections} connections")
    assert behind.connections == 1
    assert machine.alive


def test_unfit_back_end_ends_a_qemu_that_starts(lab: Lab) -> None:
    """It exits with status 1 at once."""
    behind = lab.backend(KIND)
    behind.queues = 1
    netdev = f"vhost-user,id=net0,chardev={behind.path.stem},queues=2"
    with pytest.raises(QemuDied, match="status 1"):
        lab.machine(extra=["-netdev", netdev])
    assert behind.connections == 1


@pytest.mark.parametrize("plug", ["cold", "hot"])
def test_back_end_that_leaves_at_first_is_used_in_the_end(lab: Lab, plug: str) -> None:
    """It needs more tries than a second has room for."""
    behind = lab.backend(KIND, HangUp(request=None, at=3, until_connection=MANY))
    netdev = f"vhost-user,id=net0,chardev={behind.path.stem}"
    machine = lab.machine(extra=["-netdev", netdev] if plug == "cold" else [], qtest=True)
    if plug == "hot":
        add(machine, behind)
    assert behind.connections == MANY + 1
    assert_network_is_served(machine)


def test_machine_runs_on_while_a_back_end_leaves(lab: Lab) -> None:
    behind = lab.backend(KIND, HangUp(at=3))
    machine = lab.machine(qtest=True)
    with adding(machine, behind) as added:
        turns(machine)
        assert not added.done()
        behind.misbehaviour = []
        added.result(WAIT_S)
    assert_network_is_served(machine)


@pytest.mark.parametrize("chardev", ["reconnect-ms=50", "server=on,wait=off"])
def test_machine_runs_on_until_a_back_end_is_there(lab: Lab, chardev: str) -> None:
    """Nobody is connected to the chardev, which connects again, or listens."""
    path = lab.folder / "net.sock"
    machine = lab.machine(extra=["-chardev", f"socket,id=net,path={path},{chardev}"], qtest=True)
    arguments: dict[str, Any] = {**NETDEV, "chardev": "net"}
    with ThreadPoolExecutor() as pool:
        added = pool.submit(lambda: machine.qmp.execute("netdev_add", **arguments))
        turns(machine)
        assert not added.done()
        if "server" in chardev:
            machine.process.kill()
            return
        behind = lab.backend(KIND)
        behind.path.rename(path)
        added.result(WAIT_S)
    assert_network_is_served(machine)


def test_machine_runs_on_where_a_connection_that_was_under_way_fails(lab: Lab) -> None:
    """QEMU waits for that one with its main loop, and for the next ones without."""
    path = lab.folder / "net.sock"
    chardev = ["-chardev", f"socket,id=net,path={path},reconnect-ms=50"]
    arguments: dict[str, Any] = {**NETDEV, "chardev": "net"}
    with ThreadPoolExecutor() as pool:
        with lab.listening(path) as listener, ExitStack() as waiting:
            fill(listener, waiting)
            machine = lab.machine(extra=chardev, qtest=True)
            added = pool.submit(lambda: machine.qmp.execute("netdev_add", **arguments))
            while wait([turn := pool.submit(machine.qtest.endianness)], SILENT_S).done:
                pass
        path.unlink(missing_ok=True)
        turn.result(GIVEN_UP_S)
        turns(machine)
        assert not added.done()
        behind = lab.backend(KIND)
        behind.path.rename(path)
        added.result(WAIT_S)
    assert_network_is_served(machine)


def fill(listener: socket.socket, waiting: ExitStack) -> None:
    """Connect to a listener until its backlog is full, and the next one would have to wait."""
    with suppress(BlockingIOError):
        while True:
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect(listener.getsockname())


def test_back_end_that_resets_its_connection_has_left(lab: Lab) -> None:
    """It is closed with a question unread, which QEMU sees as an error; the next one is used."""
    path = lab.folder / "net.sock"
    with lab.listening(path) as listener:
        listener.settimeout(WAIT_S)
        chardev = ["-chardev", f"socket,id=net,path={path},reconnect-ms=50"]
        machine = lab.machine(extra=chardev, qtest=True)
        arguments: dict[str, Any] = {**NETDEV, "chardev": "net"}
        with ThreadPoolExecutor() as pool:
            added = pool.submit(lambda: machine.qmp.execute("netdev_add", **arguments))
            first, _ = listener.accept()
            with first:
                first.settimeout(WAIT_S)
                first.recv(1, socket.MSG_PEEK)
                behind = lab.backend(KIND)
                behind.path.rename(path)
            added.result(WAIT_S)
    assert_network_is_served(machine)


def test_netdev_that_waits_for_its_back_end_is_not_used(lab: Lab) -> None:
    """A second monitor could plug a device there meanwhile."""
    behind = lab.backend(KIND, HangUp(at=3))
    path = lab.folder / "monitor.sock"
    extra = ["-chardev", f"socket,id=hmp,path={path},server=on,wait=off"]
    machine = lab.machine(extra=[*extra, "-mon", "chardev=hmp,mode=readline"], qtest=True)
    with adding(machine, behind) as added, socket.socket(socket.AF_UNIX) as monitor:
        tries = behind.connections + 2
        poll_until(lambda: behind.connections >= tries or None, WAIT_S, lambda: "two more tries")
        monitor.settimeout(WAIT_S)
        monitor.connect(str(path))
        monitor.sendall(b"device_add virtio-net-pci,netdev=net0,bus=port0\n")
        said = b""
        while b"Error" not in said:
            said += monitor.recv(4096)
        assert b"netdev 'net0' is not connected to its backend yet" in said
        behind.misbehaviour = []
        added.result(WAIT_S)
    assert_network_is_served(machine)


@pytest.mark.parametrize("how", ["qmp", "hmp"])
def test_chardev_stays_where_netdev_add_fails(lab: Lab, how: str) -> None:
    """Its back-end is gone, and the chardev does not connect again by itself."""
    behind = lab.backend(KIND)
    machine = lab.machine(qtest=True)
    path = behind.path.rename(lab.folder / "elsewhere.sock")
    behind.hang_up()
    wait_chardev(machine, behind.path.stem, connected=False)
    if how == "hmp":
        assert "Error: " in hmp_netdev_add(machine, behind.path.stem)
    else:
        with pytest.raises(QmpRefused):
            add(machine, behind)
    path.rename(behind.path)
    add(machine, behind)
    assert_network_is_served(machine)


def hmp_netdev_add(machine: Machine, chardev: str) -> str:
    """What HMP's netdev_add says."""
    line = f"netdev_add vhost-user,id=net0,chardev={chardev}"
    said: str = machine.qmp.execute("human-monitor-command", **{"command-line": line})
    return said


@pytest.mark.parametrize("chardev", ["reconnect-ms=50", "server=on,wait=off"])
def test_hmp_does_not_wait_for_a_back_end(lab: Lab, chardev: str) -> None:
    """It has no coroutine. When somebody is there it adds the netdev."""
    path = lab.folder / "net.sock"
    machine = lab.machine(extra=["-chardev", f"socket,id=net,path={path},{chardev}"], qtest=True)
    assert "chardev 'net' is not connected" in hmp_netdev_add(machine, "net")
    if "server" in chardev:
        return
    behind = lab.backend(KIND)
    behind.path.rename(path)
    assert hmp_netdev_add(machine, "net") == ""
    assert_network_is_served(machine)


def test_hmp_does_not_wait_for_a_back_end_that_leaves(lab: Lab) -> None:
    behind = lab.backend(KIND, HangUp(at=3))
    machine = lab.machine(qtest=True)
    assert "leaves whenever it is started" in hmp_netdev_add(machine, behind.path.stem)
    behind.misbehaviour = []
    assert hmp_netdev_add(machine, behind.path.stem) == ""
    assert_network_is_served(machine)
