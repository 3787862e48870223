"""Rings that a driver has written against the rules end neither QEMU nor its main loop."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.cable import Cable
from qap.verify.kit.lab import Lab
from qap.verify.kit.slow_disk import null_disk, throttle_group, throttled
from qap.virtio.blk import ID_SIZE, BlkRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.net import FEATURE_MRG_RXBUF, RECEIVEQ, TRANSMITQ
from qap.virtio.packed import DESC, DESC_F_AVAIL, DESC_F_INDIRECT, DESC_F_NEXT
from qap.virtio.queue import Buffer, Queue
from qap.virtio.split import DESC_F_WRITE, SplitQueue
from qap.virtio.transport import QueueAddresses, Transport

Start = Callable[..., tuple[Machine, Transport]]
MODERN_TRANSPORTS = ("pci modern", "mmio 2", "ccw 2")
PACKED = Behaviour(supports=MODERN | mask([FeatureBit.RING_PACKED]))
MERGEABLE = replace(PACKED, supports=PACKED.supports | mask([FEATURE_MRG_RXBUF]))
SIZE = 16
IOAPIC = 0xFEC0_0000
NETDEV = ("-netdev", "user,id=net0,restrict=on")
# A disk that serves nothing for long, once QEMU has looked for partitions on it.
SLOW = throttle_group()
SLOW_DISK = (
    null_disk("null0"),
    throttled("null0"),
)
NULL_DISK = (null_disk(),)
DESC_TABLE = struct.Struct("<QIHH")


def driven(transport: Transport, behaviour: Behaviour | None = None) -> Driver:
    """A driver whose features are negotiated."""
    driver = Driver(transport, GuestMemory(transport.qtest), behaviour)
    driver.negotiate()
    return driver


def assert_broken(transport: Transport) -> None:
    """2.1.2: the device says that it needs a reset."""
    assert Status.DEVICE_NEEDS_RESET in transport.status


def net(start: Start, name: str, **properties: object) -> tuple[Machine, Transport]:
    """A machine with a network card whose link is down."""
    machine, transport = start(
        name, "virtio-net", extra=NETDEV, netdev="net0", mac="52:54:00:12:34:56", **properties
    )
    machine.qmp.execute("set_link", name="net0", up=False)
    return machine, transport


@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_endless_chain_on_a_link_that_is_down(start: Start, name: str) -> None:
    """2.8.21: a chain has no more descriptors than the ring has; this one has no end."""
    machine, transport = net(start, name, packed=True)
    driver = driven(transport, PACKED)
    queue = driver.queue(TRANSMITQ, SIZE)
    driver.start()
    room = driver.memory.take(64)
    chain = DESC.pack(room, 64, 0, DESC_F_AVAIL | DESC_F_NEXT)
    driver.memory.write(queue.addresses.desc, chain * SIZE)
    transport.notify(TRANSMITQ)
    assert machine.alive
    assert_broken(transport)


@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_frames_for_a_link_that_is_down_come_back(start: Start, name: str) -> None:
    """2.8.6: all of them, each with the id of its buffer; and later ones are sent, too."""
    frames_come_back(*net(start, name, packed=True), PACKED)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_frames_for_a_link_that_is_down_come_back_in_order(
    start: Start, name: str, packed: bool
) -> None:
    """2.6.2: IN_ORDER says in which order buffers are used, not that they are not."""
    ring = [FeatureBit.RING_PACKED] if packed else []
    behaviour = Behaviour(supports=MODERN | mask([FeatureBit.IN_ORDER, *ring]))
    frames_come_back(*net(start, name, packed=packed, in_order=True), behaviour)


def frames_come_back(machine: Machine, transport: Transport, behaviour: Behaviour) -> None:
    """Send frames while the link is down, and then while it is up."""
    driver = driven(transport, behaviour)
    queue = driver.queue(TRANSMITQ, SIZE)
    driver.start()
    head, rest = driver.memory.take(12), driver.memory.take(64)
    frame = [Buffer(head, 12), Buffer(rest, 64)]
    for _ in range(3):
        ids = [queue.add(frame) for _ in range(SIZE // 2)]
        transport.notify(TRANSMITQ)
        assert [queue.wait_used(5).id for _ in ids] == ids
    machine.qmp.execute("set_link", name="net0", up=True)
    for _ in range(SIZE):
        driver.serve(queue, frame)


@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
@pytest.mark.parametrize("ahead", [SIZE + 1, 1 << 15, (1 << 16) - 1])
def test_available_index_far_ahead_on_a_link_that_is_down(
    start: Start, name: str, ahead: int
) -> None:
    """2.7.6: no more heads are available than the ring has entries."""
    machine, transport = net(start, name)
    driver = driven(transport)
    queue = driver.queue(TRANSMITQ, SIZE)
    driver.start()
    driver.memory.write(queue.addresses.driver + 2, struct.pack("<H", ahead))
    transport.notify(TRANSMITQ)
    assert machine.alive
    assert_broken(transport)


def test_available_index_that_the_device_writes(start: Start) -> None:
    """2.7: the driver area is the device area here, and a request is out.

    So the available index that the device reads is the used index that it wrote, and always
    one behind: 65535 more heads, again and again.
    """
    machine, transport = start("pci modern", "virtio-blk", SLOW_DISK, SLOW, drive="disk0")
    driver = driven(transport)
    memory = driver.memory
    answer, status = memory.take(512), memory.take(1)

    def table(request: BlkRequest, room: int) -> int:
        header = memory.put(struct.pack("<IIQ", request, 0, 0))
        return memory.put(
            DESC_TABLE.pack(header, 16, DESC_F_NEXT, 1)
            + DESC_TABLE.pack(answer, room, DESC_F_NEXT | DESC_F_WRITE, 2)
            + DESC_TABLE.pack(status, 1, DESC_F_WRITE, 0)
        )

    slow, quick = table(BlkRequest.IN, 512), table(BlkRequest.GET_ID, ID_SIZE)
    queue = SplitQueue(memory, 0, 64)
    ring = queue.addresses
    rows = [DESC_TABLE.pack(quick, 48, DESC_F_INDIRECT, 0)] * 63
    rows += [DESC_TABLE.pack(slow, 48, DESC_F_INDIRECT, 0)]
    memory.write(ring.desc, b"".join(rows))
    transport.enable_queue(0, QueueAddresses(64, ring.desc, ring.device, ring.device))
    driver.start()
    memory.write(ring.device + 2, struct.pack("<HH", 1, 63))
    transport.notify(0)
    assert machine.alive
    memory.write(ring.device + 2, struct.pack("<HHH", 2, 63, 0))
    transport.notify(0)
    assert machine.alive
    assert_broken(transport)


@pytest.mark.parametrize("bad", ["head", "table"])
def test_bad_ring_can_be_looked_at(start: Start, bad: str) -> None:
    """Somebody asks QEMU for what the driver has made available; it is no descriptor."""
    machine, transport = start("pci modern", "virtio-blk", NULL_DISK, drive="disk0")
    driver = driven(transport)
    queue = driver.queue(0, SIZE)
    driver.start()
    if bad == "head":
        driver.memory.write(queue.addresses.driver + 4, struct.pack("<H", 0xFFFF))
    else:
        row = DESC_TABLE.pack(driver.memory.take(16), 0, DESC_F_INDIRECT, 0)
        driver.memory.write(queue.addresses.desc, row)
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    with pytest.raises(QmpRefused):
        machine.qmp.execute("x-query-virtio-queue-element", path=path, queue=0)
    assert machine.alive


@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_device_recovers_by_a_reset(start: Start, name: str) -> None:
    """2.1.2: after an endless chain a reset makes the device whole."""
    machine, transport = net(start, name, packed=True)
    for _ in range(2):
        driver = driven(transport, PACKED)
        queue = driver.queue(TRANSMITQ, SIZE)
        driver.start()
        room = driver.memory.take(64)
        driver.serve(queue, [Buffer(room, 64)])
        endless = DESC.pack(room, 64, 0, DESC_F_AVAIL | DESC_F_NEXT)
        driver.memory.write(queue.addresses.desc, endless * SIZE)
        transport.notify(TRANSMITQ)
        assert machine.alive


def test_full_ring_is_used_in_order(start: Start) -> None:
    """2.6.2, 2.8.21: in a packed ring all descriptors may be in use at once."""
    machine, transport = start(
        "pci modern", "virtio-blk", NULL_DISK, drive="disk0", packed=True, in_order=True
    )
    driver = driven(
        transport, Behaviour(MODERN | mask([FeatureBit.RING_PACKED, FeatureBit.IN_ORDER]))
    )
    memory = driver.memory
    queue = driver.queue(0, 12)
    driver.start()
    header = memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, 0))
    rooms = [Buffer(memory.take(size), size, writable=True) for size in (512, 1)]
    for _ in range(3):
        ids = [queue.add([Buffer(header, 16), *rooms]) for _ in range(4)]
        transport.notify(0)
        assert [queue.wait_used(5).id for _ in ids] == ids
    assert machine.alive


def test_frame_that_does_not_fit_leaves_the_ring_in_step(lab: Lab, start: Start) -> None:
    """5.1.6.3: it is dropped; its buffer, a chain of two, is there for the next one."""
    cable = Cable(lab)
    _, transport = start("pci modern", "virtio-net", extra=cable.netdev, netdev="net0", packed=True)
    driver = driven(transport, PACKED)
    receive = driver.queue(RECEIVEQ, SIZE)
    driver.start()
    head, rest = driver.memory.take(12), driver.memory.take(96)
    for _ in range(SIZE // 2):
        receive.add([Buffer(head, 12, writable=True), Buffer(rest, 96, writable=True)])
    transport.notify(RECEIVEQ)
    for number in range(SIZE // 2):
        cable.send(b"\xff" * 200)
        cable.send(b"\xff" * 60 + bytes([number]))
        assert receive.wait_used(5).length == 12 + 61
        assert driver.memory.read(rest + 60, 1)[0] == number


@pytest.mark.parametrize("packed", [False, True])
def test_bad_chain_gives_back_what_it_mapped(start: Start, packed: bool) -> None:
    """2.1.2: after a reset the device can do all that it could before."""
    machine, transport = start(
        "pci modern", "virtio-net", extra=NETDEV, netdev="net0", packed=packed, iommu_platform=True
    )
    # Registers, of which a device has a copy made to read them.
    registers = IOAPIC
    for bad in (True, True, False):
        driver = driven(transport, PACKED)
        queue = driver.queue(TRANSMITQ, SIZE)
        driver.start()
        room = driver.memory.take(4096)
        if bad:
            queue.add([Buffer(registers, 4096), Buffer(room, 0)])
            transport.notify(TRANSMITQ)
            assert machine.alive
            assert_broken(transport)
        else:
            driver.serve(queue, [Buffer(room, 12), Buffer(registers, 4096)])


def empty_tables(driver: Driver, queue: Queue) -> None:
    """2.8.7.1: a table has no more entries than the ring; these have millions, all empty."""
    rows = DESC.pack(32 * MIB, 90 * MIB, 0, DESC_F_AVAIL | DESC_F_INDIRECT) * 1024
    driver.memory.write(queue.addresses.desc, rows)


def test_indirect_table_as_large_as_memory(start: Start) -> None:
    machine, transport = start("pci modern", "virtio-rng", packed=True)
    driver = driven(transport, PACKED)
    queue = driver.queue(0, 1024)
    driver.start()
    empty_tables(driver, queue)
    transport.notify(0)
    assert machine.alive


@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_frame_for_indirect_tables_as_large_as_memory(lab: Lab, start: Start, name: str) -> None:
    """5.1.6.3.1: a frame may take many buffers; the device looks how much room all of them have."""
    cable = Cable(lab)
    machine, transport = start(
        name, "virtio-net", extra=cable.netdev, netdev="net0", packed=True, rx_queue_size=1024
    )
    driver = driven(transport, MERGEABLE)
    receive = driver.queue(RECEIVEQ, 1024)
    driver.start()
    empty_tables(driver, receive)
    transport.notify(RECEIVEQ)
    cable.send(bytes(60))
    # QEMU looks at the cable once more before it answers for the second time.
    assert machine.alive
    assert machine.alive
