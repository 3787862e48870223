"""A queue is reset while the device still has buffers of it."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_served, driven
from qap.verify.kit.lab import Lab
from qap.verify.kit.slow_disk import lift_limit, throttle_group, throttled
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.blk import SECTOR, UNANSWERED, BlkRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.ninep import HEADER, ROOT, NineP, NinepMessage
from qap.virtio.queue import Buffer
from qap.virtio.serial import FEATURE_MULTIPORT, Serial
from qap.virtio.transport import QueueAddresses, Transport

Start = Callable[..., tuple[Machine, Transport]]
RESETS = ("pci modern", "mmio 2", "ccw 2")
IN_THREADS = [("pci modern", True), *((name, False) for name in RESETS)]
# A disk that serves nothing for long, once QEMU has looked for partitions on it.
SLOW = throttle_group()
THREAD = ("-object", "iothread,id=thread0")
SLOW_DISK = (
    "driver=null-co,node-name=null0,size=1048576,read-zeroes=on",
    throttled("null0"),
)
STATISTICS = 1
STATSQ = 2
TRANSMITQ = 5
LOOKS = 64
# For what is under way for a second: few, as these take time, too.
FEW_LOOKS = 8
SCSI_REQUESTQ = 2
RESPONSE = 108
# 5.6.6.1: target 0, LUN 0
LUN = b"\1\0\x40\0\0\0\0\0"


def negotiated(transport: Transport, *extra: int) -> Driver:
    """A driver that accepts RING_RESET where it is offered."""
    supports = MODERN | mask([FeatureBit.RING_RESET, FeatureBit.RING_PACKED, *extra])
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(supports))
    driver.negotiate()
    return driver


def reset_queue(transport: Transport, index: int, how: str) -> None:
    """Reset a queue by what the transport has for it."""
    if how == "ccw 2":
        transport.enable_queue(index, QueueAddresses(0, 0, 0, 0))
    else:
        transport.queue_reset(index)


def release(machine: Machine) -> None:
    """Let the slow disk serve all that it has."""
    lift_limit(machine)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "thread"), IN_THREADS)
def test_disk_request_is_over_when_its_queue_is_reset(
    start: Start, name: str, packed: bool, thread: bool
) -> None:
    """2.6.1.1: the device executes no request of a queue after its reset.

    It writes neither data nor a status for it, and the next ring has no used entry of it.
    """
    extra = (*SLOW, *THREAD) if thread else SLOW
    properties = {"iothread": "thread0"} if thread else {}
    machine, transport = start(
        name, "virtio-blk", SLOW_DISK, extra, drive="disk0", packed=packed, **properties
    )
    driver = negotiated(transport)
    memory = driver.memory
    header = memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, 0))
    answer = memory.put(b"\xaa" * SECTOR)
    status = memory.put(bytes([UNANSWERED]))
    request = [Buffer(header, 16), Buffer(answer, SECTOR, True), Buffer(status, 1, True)]
    queue = driver.queue(0, 16)
    driver.start()
    queue.add(request)
    transport.notify(0)
    assert not any(queue.take_used() for _ in range(LOOKS))
    reset_queue(transport, 0, name)
    # The driver uses the memory for something else.
    memory.write(answer, b"\x55" * SECTOR)
    memory.write(status, b"\x55")
    queue = driver.queue(0, 16)
    release(machine)
    assert not any(queue.take_used() for _ in range(LOOKS))
    assert memory.read(answer, SECTOR) == b"\x55" * SECTOR
    assert memory.read(status, 1) == b"\x55"
    for _ in range(20):
        driver.serve(queue, request)
    assert memory.read(status, 1) == b"\0"


@pytest.mark.parametrize("name", RESETS)
def test_balloon_statistics_do_not_come_back_in_another_ring(start: Start, name: str) -> None:
    """5.5.6.4: the device keeps a buffer of statistics until it wants new ones."""
    machine, transport = start(name, "virtio-balloon")
    driver = negotiated(transport, STATISTICS)
    driver.queue(0), driver.queue(1)
    queue = driver.queue(STATSQ, 16)
    driver.start()
    queue.add([Buffer(driver.memory.take(10), 10)])
    transport.notify(STATSQ)
    reset_queue(transport, STATSQ, name)
    queue = driver.queue(STATSQ, 16)
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    interval = {"path": path, "property": "guest-stats-polling-interval"}
    machine.qmp.execute("qom-set", **interval, value=1)
    wait_a_second(machine, name)
    assert not any(queue.take_used() for _ in range(LOOKS))
    # And statistics go on in the new ring.
    queue.add([Buffer(driver.memory.take(10), 10)])
    transport.notify(STATSQ)
    wait_a_second(machine, name)
    queue.wait_used(5)


def wait_a_second(machine: Machine, name: str) -> None:
    """Let a second pass for the guest."""
    if name != "ccw 2":
        machine.qtest.clock_step(2 * 10**9)
        return
    # TCG's clock runs by itself.
    began = machine.qmp.execute("query-status")
    deadline = poll_clock(machine) + 2 * 10**9
    poll_until(
        lambda: True if poll_clock(machine) > deadline else None, 20, lambda: "the guest's clock"
    )
    assert began["running"]


def poll_clock(machine: Machine) -> int:
    """The host's clock, in ns, after a turn of QEMU's main loop."""
    machine.qmp.execute("query-status")
    return time.monotonic_ns()


@pytest.mark.parametrize("name", RESETS)
def test_console_output_does_not_come_back_in_another_ring(
    lab: Lab, start: Start, name: str
) -> None:
    """5.3.6: output that the host does not read yet waits in the device.

    It is lost with its queue, as the device may not look at the buffer any more.
    """
    path = lab.folder / "line"
    listener = lab.listening(path)
    chardev = ("-chardev", f"socket,id=line,path={path}")
    extra = (*chardev, "-device", "virtserialport,nr=1,chardev=line")
    _, transport = start(name, "virtio-serial", (), extra, packed=True)
    host = lab.owned.enter_context(listener.accept()[0])
    driver = negotiated(transport, FEATURE_MULTIPORT)
    port = Serial(driver, ports=2).add(1)
    with pytest.raises(TimeoutError, match="queue 5 to be served"):
        port.write(b"a" * MIB, timeout=1)
    reset_queue(transport, TRANSMITQ, name)
    queue = driver.queue(TRANSMITQ, 16)
    host.settimeout(1)
    heard = b""
    with pytest.raises(TimeoutError):
        while True:
            heard += host.recv(MIB)
    assert 0 < len(heard) < MIB
    assert not any(queue.take_used() for _ in range(LOOKS))
    driver.serve(queue, [Buffer(driver.memory.put(b"b" * 16), 16)])
    assert host.recv(MIB) == b"b" * 16


@pytest.mark.parametrize(("name", "thread"), IN_THREADS)
def test_scsi_command_is_over_when_its_queue_is_reset(
    start: Start, name: str, thread: bool
) -> None:
    """2.6.1.1, as for the disk above: it was cancelled."""
    disk = ("-device", "scsi-hd,drive=disk0")
    extra = (*SLOW, *THREAD, *disk) if thread else (*SLOW, *disk)
    properties = {"iothread": "thread0"} if thread else {}
    machine, transport = start(name, "virtio-scsi", SLOW_DISK, extra, **properties)
    driver = negotiated(transport)
    memory = driver.memory
    answer, data = memory.take(RESPONSE), memory.put(b"\xaa" * SECTOR)

    def command(cdb: bytes, room: int) -> list[Buffer]:
        sent = memory.put(LUN + bytes(11) + cdb.ljust(32, b"\0"))
        rooms = [Buffer(data, room, True)] if room else []
        return [Buffer(sent, 51), Buffer(answer, RESPONSE, True), *rooms]

    ready, read = command(bytes(6), 0), command(b"\x28" + bytes(7) + b"\1\0", SECTOR)
    driver.queue(0), driver.queue(1)
    queue = driver.queue(SCSI_REQUESTQ, 16)
    driver.start()
    # The first command is told that the disk was switched on.
    driver.serve(queue, ready)
    queue.add(read)
    transport.notify(SCSI_REQUESTQ)
    assert not any(queue.take_used() for _ in range(LOOKS))
    reset_queue(transport, SCSI_REQUESTQ, name)
    memory.write(data, b"\x55" * SECTOR)
    memory.write(answer, b"\x55" * RESPONSE)
    queue = driver.queue(SCSI_REQUESTQ, 16)
    release(machine)
    assert not any(queue.take_used() for _ in range(LOOKS))
    assert memory.read(data, SECTOR) == b"\x55" * SECTOR
    assert memory.read(answer, RESPONSE) == b"\x55" * RESPONSE
    for _ in range(20):
        driver.serve(queue, read)
    # status and response of struct virtio_scsi_req_cmd (5.6.6.1)
    assert memory.read(answer + 10, 2) == b"\0\0"


@pytest.mark.parametrize("name", RESETS)
def test_file_request_is_over_when_its_queue_is_reset(
    lab: Lab, start: Start, name: str, tmp_path: Path
) -> None:
    """2.6.1.1, as for the disk above: a read of a share that gives 1024 bytes a second."""
    (tmp_path / "file").write_bytes(b"\xaa" * 1024)
    share = f"local,id=share0,path={tmp_path},security_model=none,throttling.bps-read=1024"
    _, transport = start(
        name, "virtio-9p", (), ("-fsdev", share), fsdev="share0", mount_tag="share"
    )
    driver = negotiated(transport)
    memory = driver.memory
    files = NineP(driver)
    files.version()
    files.attach(os.getuid())
    files.walk(ROOT, 1, "file")
    files.open(1)
    assert files.read(1, 0, 1024) == b"\xaa" * 1024
    queue, answer = files.requestq, memory.take(2048)
    body = struct.pack("<IQI", 1, 0, 1024)
    sent = memory.put(HEADER.pack(HEADER.size + len(body), NinepMessage.READ, 0) + body)
    queue.add([Buffer(sent, HEADER.size + len(body)), Buffer(answer, 2048, writable=True)])
    transport.notify(0)
    assert not any(queue.take_used() for _ in range(FEW_LOOKS))
    reset_queue(transport, 0, name)
    memory.write(answer, b"\x55" * 2048)
    files.requestq = queue = driver.queue(0)
    # What is asked next is served after it.
    assert files.read(1, 0, 1024) == b"\xaa" * 1024
    assert memory.read(answer, 2048) == b"\x55" * 2048


def assert_breaks(lab: Lab, kind: str) -> None:
    """Reset a queue that a back-end serves, and then the device."""
    backend = lab.backend(kind)
    device, words = vhost_user_types()[kind].pci(backend.path.stem)
    machine = lab.machine({**device, "bus": "pcie.0"}, extra=words, qtest=True)
    driver, _ = driven(machine)
    backend.wait_for(FrontendRequest.SET_VRING_KICK, 5)
    transport = driver.transport
    transport.queue_reset(0)
    assert Status.DEVICE_NEEDS_RESET in transport.status
    transport.reset()
    backend.wait_for(FrontendRequest.GET_VRING_BASE, 5)
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    assert_served(driver, queue)


@pytest.mark.parametrize("kind", sorted({*vhost_user_types()} - {"vhost-user-net"}))
def test_vhost_queue_is_not_reset_under_its_back_end(lab: Lab, kind: str) -> None:
    """2.6.1: nothing can tell the back-end; the device breaks, and stops at a reset."""
    assert_breaks(lab, kind)


def test_network_queue_is_not_reset_under_its_back_end(lab: Lab) -> None:
    """virtio-net can tell only the kernel."""
    assert_breaks(lab, "vhost-user-net")
