"""A virtiofs whose back-end is gone answers its driver, instead of leaving it to wait."""

import errno
import signal
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from qap.host.debian.loader import HOST
from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_lives, negotiated, unplug_at_reset
from qap.verify.kit.lab import Lab
from qap.vhost_user import programs
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import LATER, ChainService, Later
from qap.virtio import fs
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.fs import Fs, FuseError, Opcode
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, ByteOrder, Queue
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS, Beside

MODERN_ONES = ("pci modern", "mmio 2", "ccw 2")
RING_FEATURES = {
    "plain": (),
    "indirect": (FeatureBit.INDIRECT_DESC,),
    "event_idx": (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
}
DEVICE: Device = {
    "driver": "vhost-user-fs-pci",
    "id": "dut",
    "bus": "port0",
    "tag": "share",
}
WAIT_S = 3.0
# Time in which a device would have answered.
SILENT_S = 0.5
# Bytes for an answer to LOOKUP: its header and fuse_entry_out.
ANSWER = 144
# More than a queue has entries.
MANY = 100


@dataclass
class Asker:
    """Sends FUSE requests, and waits for the answers later.

    Attributes:
        order: of FUSE messages.
        answers: where answers are waited for: unique number and address, by the chain's id.
        unique: number of the latest request.
        request, room: addresses of the latest request, and of its answer.
    """

    driver: Driver
    queue: Queue
    order: ByteOrder = "<"
    answers: dict[int, tuple[int, int]] = field(default_factory=dict)
    unique: int = 0
    request: int = 0
    room: int = 0

    def ask(self) -> int:
        """Send a LOOKUP; returns its unique number."""
        body = b"name\0"
        header = struct.Struct(self.order + fs.IN_HEADER)
        self.unique += 2
        size = header.size + len(body)
        raw = header.pack(size, Opcode.LOOKUP, self.unique, fs.ROOT, 0, 0, 0, 0, 0) + body
        memory = self.driver.memory
        self.request, self.room = memory.put(raw), memory.put(bytes(ANSWER))
        head = self.queue.add([Buffer(self.request, size), Buffer(self.room, ANSWER, True)])
        self.answers[head] = (self.unique, self.room)
        if self.queue.wants_notification():
            self.driver.transport.notify(self.queue.index)
        return self.unique

    def answer(self, timeout: float = WAIT_S) -> tuple[int, int]:
        """Wait for the next answer; returns its unique number and its error."""
        used = self.queue.wait_used(timeout)
        unique, address = self.answers.pop(used.id)
        layout = struct.Struct(self.order + fs.OUT_HEADER)
        size, error, said = layout.unpack(self.driver.memory.read(address, layout.size))
        assert (size, said) == (used.length, unique)
        return unique, error


def server(*kept: int) -> ChainService:
    """Answers requests without an error, but keeps those with these unique numbers."""

    def serve(queue: int, readable: bytes, room: int) -> bytes | Later | None:
        (_, _, unique) = struct.unpack_from("<IIQ", readable)
        if unique in kept:
            return None
        return struct.pack("<" + fs.OUT_HEADER, 16, 0, unique)

    return serve


def unserved(queue: int, readable: bytes, room: int) -> Later:
    """Leaves every request where it is."""
    return LATER


def failing(lab: Lab) -> Device:
    """The property that has requests fail; stock QEMU has none."""
    return {} if lab.build.is_base else {"x-fail-requests": True}


def plugged(
    lab: Lab, name: str = "pci modern", *, fails: bool = True
) -> tuple[Backend, Machine, Transport]:
    """A virtiofs on one of TRANSPORTS, and its back-end.

    Args:
        fails: requests fail; they wait if not, as on stock QEMU.
    """
    backend = lab.backend("vhost-user-fs")
    backend.service = unserved
    # The device type has no legacy interface to switch off.
    variant = replace(TRANSPORTS[name], properties={})
    beside = Beside(chardevs=[f"socket,id=fs,path={backend.path}"])
    own = {"chardev": "fs", "tag": "share", **(failing(lab) if fails else {})}
    started = lab.start(variant.emulator, variant.spec("vhost-user-fs", (), beside, **own))
    return backend, started, variant.connect(started)


def asker(transport: Transport, *extra: int, order: ByteOrder = "<") -> Asker:
    """A driver that has set DRIVER_OK."""
    supports = Behaviour(MODERN | mask(extra))
    driver = Driver(transport, GuestMemory(transport.qtest), supports)
    driver.negotiate()
    driver.queue(fs.HIPRIO)
    queue = driver.queue(fs.REQUESTQ)
    driver.start()
    return Asker(driver, queue, order)


def wait_connected(machine: Machine, backend: Backend, times: int) -> None:
    """Wait until QEMU has connected this many times."""
    poll_until(
        lambda: (machine.alive and backend.connections == times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end",
    )


def wait_broken(machine: Machine, transport: Transport) -> None:
    """Wait until the device asks for a reset."""
    poll_until(
        lambda: (machine.alive and Status.DEVICE_NEEDS_RESET in transport.status) or None,
        WAIT_S,
        lambda: "DEVICE_NEEDS_RESET",
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("features", RING_FEATURES.values(), ids=RING_FEATURES)
@pytest.mark.parametrize("name", MODERN_ONES)
def test_request_in_flight_fails(
    lab: Lab, name: str, features: tuple[int, ...], order: ByteOrder
) -> None:
    """So does one that comes later, and a new driver's."""
    backend, machine, transport = plugged(lab, name)
    device = asker(transport, *features, order=order)
    asked = [device.ask(), device.ask()]
    backend.settle()
    backend.hang_up()
    assert [device.answer() for _ in asked] == [(unique, -errno.EIO) for unique in asked]
    assert device.ask() == device.answer()[0]
    again = asker(transport, *features, order=order)
    assert (again.ask(), -errno.EIO) == again.answer()
    assert machine.alive


@pytest.mark.parametrize("name", MODERN_ONES)
def test_requests_fail_if_the_back_end_was_gone_before_the_driver_came(lab: Lab, name: str) -> None:
    backend, _, transport = plugged(lab, name)
    backend.hang_up()
    device = asker(transport)
    assert (device.ask(), -errno.EIO) == device.answer()


def test_forget_in_flight_is_used(lab: Lab) -> None:
    """It wants no answer, but the driver waits until its buffer comes back."""
    backend, machine, _ = plugged(lab)
    device = Fs(negotiated(machine))
    backend.settle()
    backend.hang_up()
    device.forget(fs.ROOT)
    with pytest.raises(FuseError) as failed:
        device.init()
    assert failed.value.errno == errno.EIO


def test_requests_fail_once_the_machine_goes_on(lab: Lab) -> None:
    backend, machine, transport = plugged(lab)
    device = asker(transport)
    asked = device.ask()
    backend.settle()
    machine.qmp.execute("stop")
    backend.hang_up()
    assert_stopped_in_silence(device)
    machine.qmp.execute("cont")
    assert device.answer() == (asked, -errno.EIO)
    assert (device.ask(), -errno.EIO) == device.answer()


def assert_stopped_in_silence(device: Asker) -> None:
    with pytest.raises(TimeoutError):
        device.answer(SILENT_S)


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("served", [1, MANY])
def test_back_end_that_kept_an_earlier_request_breaks_the_device(
    lab: Lab, served: int, reused: bool
) -> None:
    """The rings don't tell which request is out, and no other may be answered in its place.

    Args:
        reused: the memory of requests that are over has other things in it.
    """
    backend, machine, transport = plugged(lab)
    backend.service = server(2)
    device = asker(transport, FeatureBit.INDIRECT_DESC)
    kept = device.ask()
    for _ in range(served):
        assert device.ask() == device.answer()[0]
    stale = b"\xa5" * ANSWER
    if reused:
        for address in (device.request, device.room):
            device.driver.memory.write(address, stale)
    before = device.driver.memory.read(device.room, ANSWER)
    backend.hang_up()
    wait_broken(machine, transport)
    assert device.driver.memory.read(device.room, ANSWER) == before
    assert [unique for unique, _ in device.answers.values()] == [kept]
    assert_stopped_in_silence(device)


def test_requests_fail_after_many_that_were_served(lab: Lab) -> None:
    backend, _, transport = plugged(lab)
    backend.service = server()
    device = asker(transport)
    for _ in range(MANY):
        assert (device.ask(), 0) == device.answer()
    backend.settle()
    backend.hang_up()
    assert (device.ask(), -errno.EIO) == device.answer()


def test_requests_wait_unless_qemu_is_told_that_the_daemon_keeps_their_order(lab: Lab) -> None:
    backend, machine, transport = plugged(lab, fails=False)
    device = asker(transport)
    device.ask()
    backend.settle()
    backend.hang_up()
    assert_stopped_in_silence(device)
    assert_lives(machine)


def test_new_driver_is_served_by_a_new_back_end(lab: Lab) -> None:
    """The old one is not: no other back-end knows the session that it began."""
    backend = lab.backend("vhost-user-fs")
    backend.service = server()
    lab.backends.clear()
    machine = lab.machine(qtest=True)
    wire = {"addr": {"type": "unix", "data": {"path": str(backend.path)}}, "server": False}
    socket = {"type": "socket", "data": {**wire, "reconnect-ms": 10}}
    machine.qmp.execute("chardev-add", id="fs", backend=socket)
    wait_connected(machine, backend, 1)
    machine.plug({**DEVICE, **failing(lab), "chardev": "fs"})
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
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
    mounted = Fs(negotiated(machine))
    assert mounted.init() >= (fs.MAJOR, fs.MINOR)
    asking = Asker(mounted.driver, mounted.requestq, unique=1000)
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
