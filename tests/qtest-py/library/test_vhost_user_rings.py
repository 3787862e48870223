"""The Python back-end serves the rings of QEMU's vhost-user devices and records accesses."""

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import pattern
from qap.vhost_user.memory.dirty_log import LOG_ALL
from qap.vhost_user.protocol import FrontendRequest, ProtocolFeature
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

RNG, BLK = "vhost-user-rng", "vhost-user-blk"
RINGS = {
    "split": (),
    "split, indirect": (FeatureBit.INDIRECT_DESC,),
    "split, event_idx": (FeatureBit.EVENT_IDX,),
    "split, both": (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
    "packed": (FeatureBit.RING_PACKED,),
    "packed, indirect": (FeatureBit.RING_PACKED, FeatureBit.INDIRECT_DESC),
    "packed, event_idx": (FeatureBit.RING_PACKED, FeatureBit.EVENT_IDX),
    "packed, both": (FeatureBit.RING_PACKED, FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX),
}
# Queues that QEMU serves itself: a network device's control queue (virtio 1.3, 5.1.2), a
# socket device's event queue (5.10.2), a crypto device's control queue (5.9.2).
QEMUS_OWN = {"vhost-user-net": {2}, "vhost-user-vsock": {2}, "vhost-user-crypto": {1}}


def driver(machine: Machine, *bits: int) -> Driver:
    """A driver of the machine's only virtio function that accepts these bits as well."""
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    behaviour = Behaviour(supports=MODERN | mask(bits))
    willing = Driver(transport, GuestMemory(machine.qtest), behaviour)
    willing.negotiate()
    return willing


def plugged(lab: Lab, kind: str, backend: Backend, **properties: object) -> Machine:
    """A machine with a device of this type, cold-plugged, in front of a back-end."""
    device, options = vhost_user_types()[kind].pci(backend.path.stem)
    packed = bool(backend.features >> FeatureBit.RING_PACKED & 1)
    placed = {**device, "id": "dut", "bus": "port0", "packed": packed, **properties}
    machine: Machine = lab.machine(placed, qtest=True, extra=options)
    return machine


def served(lab: Lab, kind: str, *bits: int) -> tuple[Backend, Driver, Queue]:
    """A started device whose driver accepted these bits, and its first queue."""
    backend = lab.backend(kind)
    backend.features |= mask(bits)
    willing = driver(plugged(lab, kind, backend), *bits)
    assert willing.accepted & mask(bits) == mask(bits)
    queue = willing.queue(0)
    willing.start()
    return backend, willing, queue


def exchange(willing: Driver, queue: Queue, said: bytes, room: int) -> bytes:
    """Serve a chain with data for the device and room for its answer; returns the answer."""
    memory = willing.memory
    readable, writable = memory.put(said), memory.take(room)
    used = willing.serve(queue, [Buffer(readable, len(said)), Buffer(writable, room, True)])
    assert used.length == room
    return memory.read(writable, room)


@pytest.mark.parametrize("kind", vhost_user_types())
def test_every_queue_of_every_type_is_served(lab: Lab, kind: str) -> None:
    """Except those that QEMU serves itself."""
    backend = lab.backend(kind)
    willing = driver(plugged(lab, kind, backend))
    count = 0
    while willing.transport.queue_max(count):
        count += 1
    queues = [willing.queue(index) for index in range(count)]
    willing.start()
    for queue in queues:
        if queue.index not in QEMUS_OWN.get(kind, ()):
            said = f"to queue {queue.index}".encode()
            assert exchange(willing, queue, said, 48) == pattern(48)
            assert backend.served[-1].readable == said
    assert {chain.queue for chain in backend.served} == set(range(count)) - QEMUS_OWN.get(
        kind, set()
    )
    assert backend.ring_errors == []


@pytest.mark.parametrize("ring", RINGS)
def test_ring_is_served_past_its_wrap(lab: Lab, ring: str) -> None:
    backend, willing, queue = served(lab, RNG, *RINGS[ring])
    for number in range(queue.size + 40):
        assert exchange(willing, queue, f"chain {number}".encode(), 24) == pattern(24)
    said = [chain.readable for chain in backend.served]
    assert said == [f"chain {number}".encode() for number in range(queue.size + 40)]


@pytest.mark.parametrize("ring", RINGS)
def test_several_chains_come_back_once_each(lab: Lab, ring: str) -> None:
    _, willing, queue = served(lab, RNG, *RINGS[ring])
    for _ in range(2 * queue.size):
        rooms = [willing.memory.take(16 + number) for number in range(4)]
        ids = [
            queue.add([Buffer(address, 16 + number, True)]) for number, address in enumerate(rooms)
        ]
        if queue.wants_notification():
            willing.transport.notify(0)
        used = [queue.wait_used(10) for _ in range(4)]
        assert [entry.id for entry in used] == ids
        assert [entry.length for entry in used] == [16, 17, 18, 19]


@pytest.mark.parametrize("ring", RINGS)
def test_only_what_the_driver_gave_is_touched(lab: Lab, ring: str) -> None:
    """Only buffers, at their guest physical addresses, and the queue's three areas."""
    backend, willing, queue = served(lab, RNG, *RINGS[ring])
    memory = willing.memory
    readable, writable = memory.put(b"r" * 100), memory.take(200)
    willing.serve(queue, [Buffer(readable, 100), Buffer(writable, 200, True)])
    buffers = [access for access in backend.touched if access.what == "buffer"]
    assert [(access.space, access.address, access.size, access.write) for access in buffers] == [
        ("gpa", readable, 100, False),
        ("gpa", writable, 200, True),
    ]
    tables = [access for access in backend.touched if access.what == "indirect"]
    assert len(tables) == (FeatureBit.INDIRECT_DESC in RINGS[ring])
    (told,) = [message.words for message in backend.requests(FrontendRequest.SET_VRING_ADDR)]
    _, _, desc, device, avail, _ = told
    areas = {"desc": (desc, 16 * queue.size), "driver": (avail, 6 + 2 * queue.size)}
    areas["device"] = (device, 6 + 8 * queue.size)
    for access in backend.touched:
        if access.what in areas:
            base, size = areas[access.what]
            assert access.space == "uva"
            assert base <= access.address < access.address + access.size <= base + size
    written = {access.what for access in backend.touched if access.write}
    assert "driver" not in written
    assert FeatureBit.RING_PACKED in RINGS[ring] or "desc" not in written


def test_device_interrupts_when_the_driver_wants_it(lab: Lab) -> None:
    _, willing, queue = served(lab, RNG)
    assert willing.transport.isr_status() == 0
    exchange(willing, queue, b"?", 8)
    assert poll_until(lambda: willing.transport.isr_status() or None, 10, lambda: "the ISR") == 1


def test_stopped_device_touches_nothing(lab: Lab) -> None:
    backend, willing, queue = served(lab, RNG)
    exchange(willing, queue, b"?", 8)
    willing.transport.reset()
    backend.forget()
    queue.add([Buffer(willing.memory.take(8), 8, True)])
    willing.transport.notify(0)
    backend.settle()
    assert queue.take_used() is None
    assert backend.touched == []


@pytest.mark.parametrize("kind", [RNG, BLK])
def test_device_starts_again_after_a_reset(lab: Lab, kind: str) -> None:
    backend, willing, queue = served(lab, kind)
    for _ in range(3):
        assert exchange(willing, queue, b"?", 8) == pattern(8)
        assert len(backend.served) == 1
        willing.transport.reset()
        backend.forget()
        willing.negotiate()
        queue = willing.queue(0)
        willing.start()


def test_forgetting_empties_every_record(lab: Lab) -> None:
    backend, willing, queue = served(lab, RNG)
    exchange(willing, queue, b"?", 8)
    backend.settle()
    assert backend.received
    assert backend.touched
    assert backend.served
    backend.forget()
    assert (backend.received, backend.touched, backend.served) == ([], [], [])
    exchange(willing, queue, b"?", 8)
    assert len(backend.served) == 1


def test_memory_region_by_region(lab: Lab) -> None:
    """CONFIGURE_MEM_SLOTS: ADD_MEM_REG instead of SET_MEM_TABLE."""
    backend = lab.backend(RNG)
    backend.protocol_features |= mask([ProtocolFeature.CONFIGURE_MEM_SLOTS])
    willing = driver(plugged(lab, RNG, backend))
    queue = willing.queue(0)
    willing.start()
    assert exchange(willing, queue, b"?", 8) == pattern(8)
    asked = {message.request for message in backend.received}
    assert FrontendRequest.ADD_MEM_REG in asked
    assert FrontendRequest.SET_MEM_TABLE not in asked


def test_kept_chain_is_in_flight(lab: Lab) -> None:
    """INFLIGHT_SHMFD: chains that are taken but not used are in QEMU's inflight buffer."""
    backend = lab.backend(BLK)
    backend.protocol_features |= mask([ProtocolFeature.INFLIGHT_SHMFD])
    willing = driver(plugged(lab, BLK, backend))
    queue = willing.queue(0)
    willing.start()
    exchange(willing, queue, b"?", 8)
    assert backend.in_flight(0) == []
    answers = iter([None, b"used"])
    backend.service = lambda queue, readable, room: next(answers)
    kept = queue.add([Buffer(willing.memory.take(8), 8, True)])
    used = willing.serve(queue, [Buffer(willing.memory.take(8), 8, True)])
    assert used.id != kept
    assert backend.in_flight(0) == [kept]


def test_driver_writes_configuration_space(lab: Lab) -> None:
    backend = lab.backend("vhost-user-snd")
    willing = driver(plugged(lab, "vhost-user-snd", backend))
    willing.transport.config_write(4, b"\x01\x02\x03\x04")
    backend.wait_for(FrontendRequest.SET_CONFIG, 10)
    backend.settle()
    assert backend.config == bytes(4) + b"\x01\x02\x03\x04" + bytes(4)


def test_changed_configuration_reaches_the_driver(lab: Lab) -> None:
    backend = lab.backend("vhost-user-snd")
    willing = driver(plugged(lab, "vhost-user-snd", backend))
    willing.queue(0)
    willing.start()
    new = bytes(range(1, 13))
    assert backend.change_config(new) == 0
    assert willing.transport.config_read(0, 12) == new
    assert willing.transport.isr_status() & 2


def test_status_is_told_on_request(lab: Lab) -> None:
    """STATUS: QEMU sends DRIVER_OK only for network devices."""
    backend = lab.backend("vhost-user-net")
    backend.protocol_features |= mask([ProtocolFeature.STATUS])
    willing = driver(plugged(lab, "vhost-user-net", backend))
    willing.queue(0)
    willing.start()
    backend.settle()
    assert backend.status == willing.transport.status
    willing.transport.reset()
    backend.settle()
    assert backend.status == 0


def test_device_goes_on_while_its_writes_are_logged(lab: Lab) -> None:
    """A migration begins: features and ring addresses change under a running ring."""
    backend = lab.backend(BLK)
    backend.features |= mask([LOG_ALL])
    backend.protocol_features |= mask([ProtocolFeature.LOG_SHMFD])
    machine = plugged(lab, BLK, backend)
    willing = driver(machine)
    queue = willing.queue(0)
    willing.start()
    exchange(willing, queue, b"?", 8)
    before = len(backend.received)
    machine.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 4096})
    machine.qmp.execute("migrate", uri="exec:cat > /dev/null")
    for request in (FrontendRequest.SET_LOG_BASE, FrontendRequest.SET_VRING_ADDR):
        backend.wait_for(request, 10, since=before)
    assert backend.acked_features is not None
    assert backend.acked_features >> LOG_ALL & 1
    assert exchange(willing, queue, b"?", 8) == pattern(8)
    machine.qmp.execute("migrate_cancel")
    assert backend.ring_errors == []


def test_everything_ends_with_the_back_end(lab: Lab) -> None:
    """The device is running when the back-end ends; QEMU goes on."""
    backend, willing, queue = served(lab, RNG)
    exchange(willing, queue, b"?", 8)
    backend.close()
    assert not backend.path.exists()
    assert willing.transport.status
