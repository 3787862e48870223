"""What registers say and take that a driver should not have used like that."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit
from qap.oracle.status import Status
from qap.virtio import mmio, pci_modern
from qap.virtio.blk import ID_SIZE, BlkRequest
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.mmio import Mmio
from qap.virtio.pci_modern import COMMON_CFG, PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.rng import Rng
from qap.virtio.split import SplitQueue
from qap.virtio.transport import QueueAddresses, Transport

Start = Callable[..., tuple[Machine, Transport]]
MODERN_TRANSPORTS = ("pci modern", "mmio 2", "ccw 2")
REGISTERS = ("pci modern", "mmio 2")
SIZE = 16
# From the most queues that QEMU gives a device to the largest number of a register.
ABSENT = (1024, 1025, 4096, 0xFFFF)
LOOKS = 64
# virtio-net looks at the status itself.
KINDS = ("virtio-blk",)
LEGACY = Behaviour(supports=0, sets_features_ok=False)
Properties = dict[str, Any]
SHM_REGISTERS = (0xB0, 0xB4, 0xB8, 0xBC)
STEPS = (
    Status.ACKNOWLEDGE | Status.DRIVER,
    Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK,
)


def negotiated(transport: Transport) -> Driver:
    driver = Driver(transport, GuestMemory(transport.qtest))
    driver.negotiate()
    return driver


def is_served(driver: Driver, queue: Queue) -> bool:
    """Whether the device uses a buffer of this queue."""
    room = driver.memory.take(16)
    queue.add([Buffer(room, 16, writable=True)])
    driver.transport.notify(queue.index)
    return any(queue.take_used() for _ in range(LOOKS))


@pytest.mark.parametrize("index", ABSENT)
@pytest.mark.parametrize("name", [*REGISTERS, "pci legacy", "mmio 1"])
def test_queue_that_is_not_there_has_size_0(start: Start, name: str, index: int) -> None:
    """4.1.4.3.1, 4.1.4.8, 4.2.2: also if one that is there was selected before."""
    _, transport = start(name, "virtio-rng")
    assert transport.queue_max(0)
    assert not transport.queue_max(index)
    assert not transport.queue_enabled(index)
    assert transport.queue_max(0)


@pytest.mark.parametrize("index", ABSENT)
@pytest.mark.parametrize("name", REGISTERS)
def test_queue_that_is_not_there_takes_no_settings(start: Start, name: str, index: int) -> None:
    """What a driver writes for it is not for the queue that it selected before."""
    machine, transport = start(name, "virtio-rng")
    driver = negotiated(transport)
    queue = driver.queue(0, SIZE)
    driver.start()
    assert is_served(driver, queue)
    transport.queue_max(0)
    settings = QueueAddresses(4, *(driver.memory.take(64) for _ in range(3)))
    if isinstance(transport, Mmio):
        transport.qtest.writel(transport.base + mmio.QUEUE_SEL, index)
        transport.qtest.writel(transport.base + mmio.QUEUE_READY, 0)
    else:
        assert isinstance(transport, PciModern)
        common = transport.regions[COMMON_CFG].address
        transport.qtest.writew(common + pci_modern.QUEUE_SELECT, index)
        transport.qtest.writew(common + pci_modern.QUEUE_SIZE, settings.size)
        transport.qtest.writew(common + pci_modern.QUEUE_ENABLE, 1)
        transport.qtest.writew(common + pci_modern.QUEUE_RESET, 1)
    assert not transport.queue_enabled(index)
    assert transport.queue_enabled(0)
    assert all(is_served(driver, queue) for _ in range(SIZE))
    assert machine.alive


@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_driver_neither_sets_nor_clears_needs_reset(start: Start, name: str) -> None:
    """2.1: it is the device's bit; 2.1.2: and stays until the reset."""
    _, transport = start(name, "virtio-rng")
    driver = negotiated(transport)
    running = driver.start()
    transport.set_status(running | Status.DEVICE_NEEDS_RESET)
    assert transport.status == running
    transport.reset()
    driver = negotiated(transport)
    queue = driver.queue(0, SIZE)
    driver.start()
    assert isinstance(queue, SplitQueue)
    # 2.7.6: an available index that is invalid for such a small ring.
    transport.qtest.b64write(queue.addresses.driver + 2, b"\xff\x7f")
    transport.notify(0)
    assert Status.DEVICE_NEEDS_RESET in transport.status
    for status in (running, running | Status.FAILED, Status.ACKNOWLEDGE):
        transport.set_status(status)
        assert transport.status == status | Status.DEVICE_NEEDS_RESET
    transport.reset()
    assert len(Rng(negotiated(transport)).read(16)) == 16


def test_absent_shared_memory_reads_as_ones(start: Start) -> None:
    """4.2.2: length and base of a region that does not exist are all ones."""
    _, transport = start("mmio 2", "virtio-rng")
    assert isinstance(transport, Mmio)
    read = [transport.qtest.readl(transport.base + register) for register in SHM_REGISTERS]
    assert read == [0xFFFF_FFFF] * len(SHM_REGISTERS)


def test_ring_reset_is_not_offered_without_a_way_to_do_it(start: Start) -> None:
    """4.3 has no command for it."""
    _, transport = start("ccw 2", "virtio-rng")
    assert not negotiated(transport).offered >> FeatureBit.RING_RESET & 1


def test_property_offers_ring_reset(start: Start) -> None:
    """x-offer-ring-reset=on, as machines before 10.0 have it."""
    offers: Properties = {"x-offer-ring-reset": True}
    _, transport = start("ccw 2", "virtio-rng", **offers)
    assert negotiated(transport).offered >> FeatureBit.RING_RESET & 1


@pytest.mark.parametrize("name", REGISTERS)
def test_ring_reset_is_offered_where_there_is_a_way(start: Start, name: str) -> None:
    """4.1.4.3, 4.2.2: there is a register."""
    _, transport = start(name, "virtio-rng")
    assert negotiated(transport).offered >> FeatureBit.RING_RESET & 1


def output(transport: Transport, kind: str) -> tuple[Driver, Queue, Callable[[], None]]:
    """A driver before DRIVER_OK, a queue of its device, and how to notify it of a buffer."""
    driver = Driver(transport, GuestMemory(transport.qtest), LEGACY if transport.legacy else None)
    driver.negotiate()
    memory = driver.memory
    if kind == "virtio-blk":
        header = memory.put(struct.pack(f"{driver.order}IIQ", BlkRequest.GET_ID, 0, 0))
        rooms = [Buffer(memory.take(size), size, writable=True) for size in (ID_SIZE, 1)]
        chain, index = [Buffer(header, 16), *rooms], 0
    else:
        chain, index = [Buffer(memory.take(size), size) for size in (12, 64)], 1
        driver.queue(0)
    queue = driver.queue(index)

    def offer() -> None:
        queue.add(chain)
        transport.notify(index)

    return driver, queue, offer


def served(queue: Queue) -> bool:
    return any(queue.take_used() for _ in range(LOOKS))


@pytest.mark.parametrize("ioeventfd", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_device_serves_from_driver_ok_on(
    start: Start, name: str, kind: str, ioeventfd: bool
) -> None:
    """2.1.2: it consumes no buffer before; what it was notified of it serves then."""
    if ioeventfd:
        how: Properties = {}
    elif name == "mmio 2":
        how = {"extra": ("-global", "virtio-mmio.ioeventfd=off")}
    else:
        how = {"ioeventfd": False}
    _, transport = of_kind(start, name, kind, **how)
    driver, queue, offer = output(transport, kind)
    offer()
    assert not served(queue)
    driver.start()
    queue.wait_used(5)
    offer()
    queue.wait_used(5)


@pytest.mark.parametrize("status", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODERN_TRANSPORTS)
def test_device_does_not_serve_once_driver_ok_is_cleared(
    start: Start, name: str, kind: str, status: Status
) -> None:
    """2.1.2; and it serves again once the driver has set it again."""
    _, transport = of_kind(start, name, kind)
    driver, queue, offer = output(transport, kind)
    running = driver.start()
    offer()
    queue.wait_used(5)
    transport.set_status(status)
    offer()
    assert not served(queue)
    transport.set_status(running)
    queue.wait_used(5)


@pytest.mark.parametrize("name", ["pci legacy", "mmio 1", "ccw 0"])
def test_legacy_driver_is_served_before_driver_ok(start: Start, name: str) -> None:
    """3.1.1: there are legacy drivers that use the device before DRIVER_OK."""
    _, transport = of_kind(start, name, "virtio-blk")
    _, queue, offer = output(transport, "virtio-blk")
    offer()
    queue.wait_used(5)


def test_property_serves_before_driver_ok(start: Start) -> None:
    """x-require-driver-ok=off is for guests that worked by accident."""
    early: Properties = {"x-require-driver-ok": False}
    _, transport = of_kind(start, "pci modern", "virtio-blk", **early)
    _, queue, offer = output(transport, "virtio-blk")
    offer()
    queue.wait_used(5)


def of_kind(
    start: Start, name: str, kind: str, extra: tuple[str, ...] = (), **properties: object
) -> tuple[Machine, Transport]:
    """A machine with a device of this type that serves what is put into its queues."""
    if kind == "virtio-blk":
        disk = ("driver=null-co,node-name=disk0,size=1048576",)
        return start(name, kind, disk, extra, drive="disk0", **properties)
    netdev = ("-netdev", "user,id=net0,restrict=on")
    return start(name, kind, extra=(*netdev, *extra), netdev="net0", **properties)
