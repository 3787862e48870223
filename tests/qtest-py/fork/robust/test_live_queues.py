"""Sizes, addresses and features that change while a queue is in use."""

import struct
from collections.abc import Callable

import pytest

from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.virtio import mmio, pci_modern
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.mmio import Mmio
from qap.virtio.packed import PackedQueue
from qap.virtio.pci_modern import COMMON_CFG, PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.rng import Rng
from qap.virtio.split import SplitQueue
from qap.virtio.transport import QueueAddresses, Transport

Start = Callable[..., tuple[Machine, Transport]]
MODERN_TRANSPORTS = ("pci modern", "mmio 2", "ccw 2")
REGISTERS = ("pci modern", "mmio 2")
SIZE = 4
RINGS = {
    "split": Behaviour(supports=MODERN | mask([FeatureBit.EVENT_IDX])),
    "packed": Behaviour(supports=MODERN | mask([FeatureBit.RING_PACKED, FeatureBit.EVENT_IDX])),
}
FEATURES = {
    "nothing": 0,
    "split": MODERN,
    "packed": MODERN | mask([FeatureBit.RING_PACKED]),
    "events": MODERN | mask([FeatureBit.EVENT_IDX]),
    "packed events": MODERN | mask([FeatureBit.RING_PACKED, FeatureBit.EVENT_IDX]),
    "in order": MODERN | mask([FeatureBit.IN_ORDER]),
}


def live(transport: Transport, ring: str, served: int = SIZE - 2) -> tuple[Driver, Queue]:
    """A driver whose queue 0 has served buffers, so that its indices are near its end."""
    driver = Driver(transport, GuestMemory(transport.qtest), RINGS[ring])
    driver.negotiate()
    queue = driver.queue(0, SIZE)
    driver.start()
    for _ in range(served):
        serve(driver, queue)
    return driver, queue


def serve(driver: Driver, queue: Queue) -> None:
    room = driver.memory.take(16)
    assert driver.serve(queue, [Buffer(room, 16, writable=True)], 5).length == 16


def set_size(transport: Transport, size: int) -> None:
    """Write the size of queue 0, whatever it is in use for."""
    qtest = transport.qtest
    if isinstance(transport, PciModern):
        common = transport.regions[COMMON_CFG].address
        qtest.writew(common + pci_modern.QUEUE_SELECT, 0)
        qtest.writew(common + pci_modern.QUEUE_SIZE, size)
    else:
        assert isinstance(transport, Mmio)
        qtest.writel(transport.base + mmio.QUEUE_SEL, 0)
        qtest.writel(transport.base + mmio.QUEUE_SIZE, size)


def new_queue(driver: Driver, ring: str, size: int = SIZE) -> Queue:
    """A queue in memory of its own that the device was not told of."""
    queue = PackedQueue if ring == "packed" else SplitQueue
    return queue(driver.memory, 0, size, event_idx=driver.has(FeatureBit.EVENT_IDX))


@pytest.mark.parametrize("size", [2, 8, 16, 1024])
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("name", REGISTERS)
def test_other_size_of_a_live_queue_is_ignored(
    start: Start, name: str, ring: str, size: int
) -> None:
    """4.1.5.1.3, 4.2.3.2: the driver sets the size before it enables the queue."""
    machine, transport = start(name, "virtio-rng", packed=ring == "packed")
    driver, queue = live(transport, ring)
    set_size(transport, size)
    for _ in range(SIZE):
        serve(driver, queue)
    assert machine.alive


@pytest.mark.parametrize("size", [2, SIZE, 2 * SIZE])
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("name", REGISTERS)
def test_live_queue_stays_where_it_is(start: Start, name: str, ring: str, size: int) -> None:
    """4.1.4.3.2, 4.2.2.2: the driver configures a queue before it enables it."""
    machine, transport = start(name, "virtio-rng", packed=ring == "packed")
    driver, queue = live(transport, ring)
    other = new_queue(driver, ring, size)
    transport.enable_queue(0, other.addresses)
    for _ in range(SIZE):
        serve(driver, queue)
    assert other.take_used() is None
    assert machine.alive


@pytest.mark.parametrize("taken_away", [False, True])
@pytest.mark.parametrize("size", [2, SIZE, 2 * SIZE])
@pytest.mark.parametrize("ring", RINGS)
def test_queue_that_is_set_up_again_is_new(
    start: Start, ring: str, size: int, taken_away: bool
) -> None:
    """4.3.2.2: SET_VQ says where a queue is; CCW has no other command to end one."""
    machine, transport = start("ccw 2", "virtio-rng", packed=ring == "packed")
    driver, _ = live(transport, ring)
    if taken_away:
        transport.enable_queue(0, QueueAddresses(0, 0, 0, 0))
    other = new_queue(driver, ring, size)
    transport.enable_queue(0, other.addresses)
    for _ in range(2 * SIZE):
        serve(driver, other)
    assert machine.alive


@pytest.mark.parametrize("size", [2, SIZE, 2 * SIZE])
@pytest.mark.parametrize("ring", RINGS)
def test_queue_that_is_not_ready_is_not_served(start: Start, ring: str, size: int) -> None:
    """4.2.2.2: the driver has its memory back; and the next queue is a new one."""
    machine, transport = start("mmio 2", "virtio-rng", packed=ring == "packed")
    driver, queue = live(transport, ring)
    assert isinstance(transport, Mmio)
    transport.qtest.writel(transport.base + mmio.QUEUE_SEL, 0)
    transport.qtest.writel(transport.base + mmio.QUEUE_READY, 0)
    with pytest.raises(TimeoutError):
        driver.serve(queue, [Buffer(driver.memory.take(16), 16, writable=True)], 0.2)
    other = new_queue(driver, ring, size)
    transport.enable_queue(0, other.addresses)
    for _ in range(2 * SIZE):
        serve(driver, other)
    assert machine.alive


@pytest.mark.parametrize("before", ["nothing", "split", "events", "in order"])
@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_ring_becomes_packed_after_queue_setup(start: Start, name: str, before: str) -> None:
    """3.1.1: features first, then queues; this driver has it the other way round."""
    toggle(start, name, before, "packed")


@pytest.mark.parametrize("before", ["packed", "packed events"])
@pytest.mark.parametrize("after", ["split", "in order"])
@pytest.mark.parametrize("name", ["pci modern", "ccw 2"])
def test_ring_becomes_split_after_queue_setup(
    start: Start, name: str, before: str, after: str
) -> None:
    """3.1.1, as above; on MMIO features count from FEATURES_OK on, and only once."""
    toggle(start, name, before, after)


@pytest.mark.parametrize("after", FEATURES)
@pytest.mark.parametrize("before", FEATURES)
@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_any_ring_features_toggled_after_queue_setup(
    start: Start, name: str, before: str, after: str
) -> None:
    """3.1.1, as above, for all that there are."""
    toggle(start, name, before, after)


def toggle(start: Start, name: str, before: str, after: str) -> None:
    """Set a queue up and notify the device of it, with these features, and then with those."""
    machine, transport = start(name, "virtio-rng", packed=True, in_order=True)
    memory = GuestMemory(transport.qtest)
    transport.reset()
    transport.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    transport.set_driver_features(FEATURES[before])
    queue = SplitQueue(memory, 0, SIZE)
    # Descriptors that are available in either kind of ring, over and over.
    rows = struct.pack("<QIHH", memory.take(16), 16, 2, 2 | 1 << 7) * SIZE
    memory.write(queue.addresses.desc, rows)
    transport.enable_queue(0, queue.addresses)
    memory.write(queue.addresses.driver + 2, struct.pack("<H", SIZE - 1))
    transport.notify(0)
    assert machine.alive
    transport.set_driver_features(FEATURES[after])
    status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
    transport.set_status(status)
    for going in (status, status | Status.DRIVER_OK):
        transport.set_status(going)
        for ahead in (1, SIZE):
            memory.write(queue.addresses.driver + 2, struct.pack("<H", ahead))
            transport.notify(0)
            assert machine.alive
    assert len(Rng(negotiated(transport)).read(16)) == 16


@pytest.mark.parametrize("name", ["pci modern", "ccw 2"])
def test_device_that_runs_keeps_the_format_of_its_rings(start: Start, name: str) -> None:
    """A driver without FEATURES_OK may not change them once it has set DRIVER_OK."""
    machine, transport = start(name, "virtio-rng", packed=True)
    driver = Driver(
        transport, GuestMemory(transport.qtest), Behaviour(MODERN, sets_features_ok=False)
    )
    driver.negotiate()
    queue = driver.queue(0, SIZE)
    driver.start()
    serve(driver, queue)
    transport.set_driver_features(FEATURES["packed"])
    for _ in range(SIZE):
        serve(driver, queue)
    assert machine.alive


def negotiated(transport: Transport) -> Driver:
    driver = Driver(transport, GuestMemory(transport.qtest))
    driver.negotiate()
    return driver
