"""A virtiofs whose back-end is gone answers its driver, instead of leaving it to wait."""

import errno
from dataclasses import replace

import pytest

from qap.host.wait import poll_until
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_lives, negotiated
from qap.verify.kit.lab import Lab
from qap.verify.kit.lost_fs import ANSWER, WAIT_S, Asker, asker, failing, server
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import LATER, Later
from qap.virtio import fs
from qap.virtio.fs import Fs, FuseError
from qap.virtio.queue import ByteOrder
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS, Beside

MODERN_ONES = ("pci modern", "mmio 2", "ccw 2")
RING_FEATURES = {
    "plain": (),
    "indirect": (FeatureBit.INDIRECT_DESC,),
    "event_idx": (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
}
# Time in which a device would have answered.
SILENT_S = 0.5
# More than a queue has entries.
MANY = 100


def unserved(queue: int, readable: bytes, room: int) -> Later:
    """Leaves every request where it is."""
    return LATER


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
