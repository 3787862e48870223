"""What a driver writes to registers and rings does not end QEMU."""

import struct
from dataclasses import replace

import pytest

from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import ProtocolFeature
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.queue import Buffer
from qap.virtio.raw import Descriptor
from qap.virtio.split import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, split_areas
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS, Beside

ANSWERED_S = 10.0

# 5.6.4, the layout of the SCSI host's configuration: what the driver may change.
SENSE_SIZE, CDB_SIZE = 20, 24
# 5.1.3 and 5.1.6.5: a network device's control queue behind 40 pairs, and a command that it
# does not know.
CTRL_VQ, MQ = 17, 22
PAIRS = 40
NO_COMMAND = bytes(3)
OFFERED = mask(
    [
        FeatureBit.VERSION_1,
        FeatureBit.VHOST_USER_PROTOCOL_FEATURES,
        CTRL_VQ,
        MQ,
    ]
)
PROTOCOL = mask([ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK])
# 5.3.2: port 0's queue for what the driver sends.
TRANSMITQ = 1
# 5.14.6: the queues of a sound device, its first two streams, and the status of a message.
TX, RX = 2, 3
STREAMS = {TX: 0, RX: 1}


def driver_of(transport: Transport, memory: GuestMemory, *features: int) -> Driver:
    """A driver that has negotiated these features."""
    modern = 0 if transport.legacy else mask([FeatureBit.VERSION_1])
    wanted = Behaviour(supports=modern | mask(features), sets_features_ok=not transport.legacy)
    driver = Driver(transport, memory, wanted)
    driver.negotiate()
    return driver


def assert_lives(machine: Machine) -> None:
    """Check that QEMU answers after some more turns of its main loop."""
    for _ in range(3):
        assert machine.alive


def started(
    lab: Lab, name: str, kind: str, beside: Beside, **properties: object
) -> tuple[Machine, Transport, GuestMemory]:
    """A machine with one device."""
    variant = TRANSPORTS[name]
    machine = lab.start(variant.emulator, variant.spec(kind, (), beside, **properties))
    return machine, variant.connect(machine), GuestMemory(machine.qtest)


@pytest.mark.parametrize("field", [SENSE_SIZE, CDB_SIZE], ids=["sense_size", "cdb_size"])
@pytest.mark.parametrize("name", ["pci modern", "pci legacy"])
def test_sizes_that_vhost_scsi_can_not_have_break_it(lab: Lab, name: str, field: int) -> None:
    lab.backend("vhost-user-scsi")
    chardev = f"socket,id=be,path={lab.backends[0].path}"
    beside = Beside(chardevs=[chardev])
    machine, transport, memory = started(lab, name, "vhost-user-scsi", beside, chardev="be")
    for _ in range(2):
        driver_of(transport, memory)
        before = transport.config_read(field, 4)
        transport.config_write(field, struct.pack("<I", 1))
        assert_lives(machine)
        assert transport.config_read(field, 4) == before
        if name == "pci modern":
            assert Status.DEVICE_NEEDS_RESET in transport.status


@pytest.mark.parametrize("name", ["pci modern", "mmio 2", "ccw 1", "ccw 2"])
def test_console_queue_without_an_available_ring_is_not_served(lab: Lab, name: str) -> None:
    console = {"driver": "virtconsole", "chardev": "console0"}
    beside = Beside(devices=[console], chardevs=["null,id=console0"])
    machine, transport, memory = started(lab, name, "virtio-serial", beside)
    driver = driver_of(transport, memory)
    areas = split_areas(memory, 8)
    transport.enable_queue(TRANSMITQ, replace(areas, driver=0))
    driver.start()
    transport.notify(TRANSMITQ)
    assert_lives(machine)


class ManyQueues:
    """A network device with 40 pairs of queues, whose back-end is in Python."""

    def __init__(self, lab: Lab, name: str) -> None:
        backend = Backend(lab.folder / "net", features=OFFERED, protocol_features=PROTOCOL)
        backend.queues = 2 * PAIRS
        lab.owned.enter_context(backend)
        netdev = f"vhost-user,id=net0,chardev=be,queues={PAIRS}"
        beside = Beside(chardevs=[f"socket,id=be,path={backend.path}"], extra=["-netdev", netdev])
        self.machine, self.transport, self.memory = started(
            lab, name, "virtio-net", beside, netdev="net0", mq=True
        )


@pytest.mark.parametrize("name", ["ccw 0", "ccw 1", "ccw 2"])
def test_queue_without_an_indicator_interrupts_nobody(lab: Lab, name: str) -> None:
    """There are 64 indicators; the driver asks for more queues when it has set them."""
    net = ManyQueues(lab, name)
    driver = driver_of(net.transport, net.memory, CTRL_VQ, MQ)
    queue = driver.queue(2 * PAIRS, 16)
    driver.start()
    answer = net.memory.take(1)
    chain = [Buffer(net.memory.put(NO_COMMAND), 3), Buffer(answer, 1, writable=True)]
    assert driver.serve(queue, chain).length == 1
    assert_lives(net.machine)


def test_legacy_driver_takes_queues_back_while_they_run(lab: Lab) -> None:
    net = ManyQueues(lab, "pci legacy")
    driver = driver_of(net.transport, net.memory, MQ)
    for index in range(4):
        driver.queue(index)
    driver.start()
    net.transport.set_driver_features(0)
    net.transport.reset()
    assert_lives(net.machine)
    driver_of(net.transport, net.memory, MQ).queue(0)


@pytest.mark.parametrize("queue", [TX, RX])
@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_sound_of_100_gigabytes_is_refused(lab: Lab, name: str, queue: int) -> None:
    beside = Beside(extra=["-audiodev", "none,id=snd0"])
    machine, transport, memory = started(lab, name, "virtio-sound", beside, audiodev="snd0")
    driver = driver_of(transport, memory)
    rings = [driver.raw_queue(index, 8) for index in range(4)]
    driver.start()
    ring = rings[queue]
    header, status = memory.put(struct.pack("<I", STREAMS[queue])), memory.take(8)
    write = DESC_F_WRITE if queue == RX else 0
    # QEMU takes tables that are longer than the queue.
    last = 1023
    table = ring.table(
        Descriptor(header, 4, DESC_F_NEXT, 1),
        *(Descriptor(MIB, 100 * MIB, DESC_F_NEXT | write, each + 1) for each in range(1, last)),
        Descriptor(status, 8, DESC_F_WRITE),
    )
    ring.put(0, table, 16 * (last + 1), DESC_F_INDIRECT)
    ring.offer(0)
    transport.notify(queue)
    assert ring.wait_used(ANSWERED_S).length == 8
    assert_lives(machine)


@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_sound_without_room_for_its_status_is_refused(lab: Lab, name: str) -> None:
    """QEMU must not take the status off a size that has no room for it."""
    beside = Beside(extra=["-audiodev", "none,id=snd0"])
    machine, transport, memory = started(lab, name, "virtio-sound", beside, audiodev="snd0")
    driver = driver_of(transport, memory)
    rings = [driver.raw_queue(index, 8) for index in range(4)]
    driver.start()
    rings[RX].put(0, memory.put(struct.pack("<I", STREAMS[RX])), 4, DESC_F_NEXT, next=1)
    rings[RX].put(1, memory.take(8), 7, DESC_F_WRITE)
    rings[RX].offer(0)
    transport.notify(RX)
    assert rings[RX].wait_used(ANSWERED_S)
    assert_lives(machine)
