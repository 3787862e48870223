"""Rings and registers that the caller writes himself, on each transport."""

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.hw.channel_program import Flag, ProgramFailed, SubchannelStatus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.virtio import ccw, mmio, pci_legacy, pci_modern
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.mmio import Mmio
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Used
from qap.virtio.raw import Descriptor, RawPackedQueue, RawQueue, RawSplitQueue
from qap.virtio.rng import DEVICE_TYPE
from qap.virtio.split import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, USED_F_NO_NOTIFY
from qap.virtio.transport import VirtioError
from qap.virtio.transports import TRANSPORTS

Start = Callable[..., Driver]
RINGS = {"split": 0, "packed": mask([FeatureBit.RING_PACKED])}
LEGACY = ("pci legacy", "mmio 1", "ccw 0")
MODERN = [name for name in TRANSPORTS if name not in LEGACY]
FORMATS = [(name, ring) for name in MODERN for ring in RINGS] + [(name, "split") for name in LEGACY]
SERVED_S = 5.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A driver of an entropy device, negotiated."""
    with ExitStack() as owned:

        def started(name: str, ring: str = "split", *features: int) -> Driver:
            variant = TRANSPORTS[name]
            spec = variant.spec("virtio-rng", packed=True)
            binary = Build.under_test().path(variant.emulator)
            machine = owned.enter_context(Machine(binary, spec, log=tmp_path / "qemu.log"))
            transport = variant.connect(machine)
            modern = 0 if transport.legacy else mask([FeatureBit.VERSION_1])
            wanted = modern | RINGS[ring] | mask(features)
            behaviour = Behaviour(supports=wanted, sets_features_ok=not transport.legacy)
            driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
            driver.negotiate()
            return driver

        yield started


def used_of(driver: Driver, queue: RawQueue) -> Used:
    """The first buffer that the device uses."""
    driver.transport.notify(queue.index)
    return queue.wait_used(SERVED_S)


@pytest.mark.parametrize(("name", "ring"), FORMATS)
def test_descriptor_that_was_put_is_served(start: Start, name: str, ring: str) -> None:
    driver = start(name, ring)
    queue = driver.raw_queue(0)
    driver.start()
    queue.put(5, driver.memory.take(16), 16, DESC_F_WRITE, next=7)
    assert queue.get(5).length == 16
    if ring == "packed":
        # The device looks at entry 0 and nowhere else.
        queue.put(0, *queue.get(5))
        queue.offer(0)
    else:
        queue.offer(5)
    assert used_of(driver, queue) == Used(7 if ring == "packed" else 5, 16)


@pytest.mark.parametrize(("name", "ring"), FORMATS)
def test_chain_is_offered_whole(start: Start, name: str, ring: str) -> None:
    driver = start(name, ring)
    queue = driver.raw_queue(0, 4)
    driver.start()
    for index in range(3):
        more = DESC_F_NEXT if index < 2 else 0
        queue.put(index, driver.memory.take(16), 16, DESC_F_WRITE | more, next=index + 1)
    queue.offer(*((0, 1, 2) if ring == "packed" else (0,)))
    assert used_of(driver, queue).length == 48


@pytest.mark.parametrize(("name", "ring"), FORMATS)
def test_indirect_table_is_served(start: Start, name: str, ring: str) -> None:
    driver = start(name, ring, FeatureBit.INDIRECT_DESC)
    queue = driver.raw_queue(0)
    driver.start()
    more = 0 if ring == "packed" else DESC_F_NEXT
    table = queue.table(
        Descriptor(driver.memory.take(16), 16, DESC_F_WRITE | more, 1),
        Descriptor(driver.memory.take(16), 16, DESC_F_WRITE),
    )
    queue.put(0, table, 2 * 16, DESC_F_INDIRECT)
    queue.offer(0)
    assert used_of(driver, queue).length == 32


@pytest.mark.parametrize("name", MODERN)
@pytest.mark.parametrize("ring", RINGS)
def test_chain_without_end_is_an_error_of_the_driver(start: Start, name: str, ring: str) -> None:
    """The device says so with NEEDS_RESET (2.1.2)."""
    driver = start(name, ring)
    queue = driver.raw_queue(0, 8)
    driver.start()
    buffer = driver.memory.take(16)
    for index in range(queue.size):
        queue.put(index, buffer, 16, DESC_F_WRITE | DESC_F_NEXT, next=0)
    queue.offer(*reversed(range(queue.size)))
    driver.transport.notify(0)
    if name != "ccw 1":
        assert Status.DEVICE_NEEDS_RESET in driver.transport.status
    assert not queue.used()


def test_split_ring_is_written_field_by_field(start: Start) -> None:
    driver = start("pci modern", "split", FeatureBit.EVENT_IDX)
    queue = driver.raw_queue(0, 4)
    assert isinstance(queue, RawSplitQueue)
    queue.set_head(6, 3)
    queue.avail_flags, queue.avail_idx, queue.used_event = 1, 0x1_FFFF, 9
    raw = driver.memory.read(queue.addresses.driver, 14)
    assert struct.unpack("<7H", raw) == (1, 0xFFFF, 0, 0, 3, 0, 9)
    assert (queue.avail_flags, queue.avail_idx, queue.used_event) == (1, 0xFFFF, 9)
    driver.memory.write(queue.addresses.device, bytes([USED_F_NO_NOTIFY]))
    assert (queue.used_flags, queue.used_idx) == (USED_F_NO_NOTIFY, 0)


def test_packed_ring_is_written_field_by_field(start: Start) -> None:
    driver = start("pci modern", "packed")
    queue = driver.raw_queue(0, 4)
    assert isinstance(queue, RawPackedQueue)
    queue.driver_event = (0x8003, 2)
    assert queue.driver_event == (0x8003, 2)
    queue.put(1, 0x1234_5678, 20, DESC_F_WRITE, next=9)
    raw = driver.memory.read(queue.addresses.desc + 16, 16)
    assert struct.unpack("<QIHH", raw) == (0x1234_5678, 20, 9, DESC_F_WRITE)
    queue.wrap = False
    queue.offer(1)
    assert queue.get(1).flags == DESC_F_WRITE | 1 << 15


def test_raw_queue_and_queue_are_in_the_same_memory_layout(start: Start) -> None:
    """A legacy queue is in one piece."""
    driver = start("pci legacy")
    queue = driver.raw_queue(0)
    assert queue.addresses.page_frame()
    assert queue.size == driver.transport.queue_max(0)


def test_registers_of_each_transport_are_raw(start: Start) -> None:
    transport = start("mmio 2").transport
    assert isinstance(transport, Mmio)
    assert transport.registers.read(mmio.DEVICE_ID) == DEVICE_TYPE
    transport.registers.write(mmio.QUEUE_SEL, 9)
    assert transport.registers.read(mmio.QUEUE_SIZE_MAX) == 0

    transport = start("pci modern").transport
    assert isinstance(transport, PciModern)
    common = transport.registers()
    common.write(pci_modern.QUEUE_DESC, 0x1122_3344_5566_7788, 8)
    assert common.read(pci_modern.QUEUE_DESC + 4, 4) == 0x1122_3344
    assert transport.registers(pci_modern.ISR_CFG).read(0, 1) == 0
    with pytest.raises(VirtioError, match="no virtio region of cfg_type 99"):
        transport.registers(99)

    transport = start("pci legacy").transport
    assert isinstance(transport, PciLegacy)
    assert Status.DRIVER in Status(transport.registers.read(pci_legacy.DEVICE_STATUS, 1))


def test_ccw_command_is_raw(start: Start) -> None:
    transport = start("ccw 2").transport
    assert isinstance(transport, VirtioCcw)
    assert Status.DRIVER in Status(transport.execute(ccw.READ_STATUS, bytes(1))[0])
    with pytest.raises(ProgramFailed) as failed:
        transport.execute(ccw.WRITE_STATUS, b"\x07", count=5)
    assert SubchannelStatus.PROGRAM_CHECK in failed.value.irb.subchannel
    transport.execute(ccw.WRITE_STATUS, b"\x07", count=5, flags=Flag.SUPPRESS_LENGTH)
    assert Status.DRIVER_OK in transport.status


def test_buffer_that_is_not_used_is_waited_for_no_longer(start: Start) -> None:
    driver = start("pci modern")
    queue = driver.raw_queue(0)
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for queue 0 to be served"):
        queue.wait_used(0.1)
