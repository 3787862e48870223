"""Work for a device, done while its QEMU's instructions are counted."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from qap.host.wait import poll_until
from qap.machine.guest_memory import PAGE, GuestMemory
from qap.oracle.features import FeatureBit, mask
from qap.vhost_user.backend import Backend
from qap.virtio import blk, net, rng
from qap.virtio.driver import MODERN, SERVED_S, Behaviour, Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transport import Transport, VirtioError

DEPTH = 64
# A chain is one descriptor, in a table of its own, as Linux does it.
ENTRIES = 64
RANDOM_BYTES = 16
# Bytes of a request that a back-end reads, and that it writes.
READABLE = ROOM = 64
# What an interrupt writes.
MESSAGE = (1).to_bytes(4, "little")
# Sectors between two reads, so that a device does not merge them.
STRIDE = 1001 * PAGE // blk.SECTOR
FRAME = bytes.fromhex("ffffffffffff 525400000001 88b5") + bytes(1486)


@dataclass(frozen=True)
class Part:
    """What one queue is given.

    Attributes:
        chains: all that is in flight at a time.
        writes: bytes that the device writes into each.
    """

    driver: Driver
    queue: Queue
    chains: Sequence[Sequence[Buffer]]
    writes: int

    def hand_over(self) -> None:
        """Make all chains available, and notify the device once."""
        for chain in self.chains:
            self.queue.add(chain)
        self.notify()

    def notify(self) -> None:
        """Notify the device of what is available, unless it has suppressed notifications."""
        if self.queue.wants_notification():
            self.driver.transport.notify(self.queue.index)

    def wait(self) -> None:
        """Wait until all are used; raises as `wait_one` does."""
        for _ in self.chains:
            self.wait_one()

    def wait_one(self) -> None:
        """Wait until the next one is used.

        Raises:
            TimeoutError: it was not.
            VirtioError: the device wrote more or less than it does for a successful request.
        """
        used = self.queue.wait_used(SERVED_S)
        if used.length != self.writes:
            raise VirtioError(f"the device wrote {used.length} bytes, not {self.writes}")


@dataclass(frozen=True)
class Load:
    """Work for a device, the same each time.

    Attributes:
        parts: in the order in which the queues get theirs.
        requests: in a batch; a multiple of those that may be in flight.
    """

    parts: Sequence[Part]
    requests: int = DEPTH

    def batch(self) -> None:
        """Hand over as many requests as may be in flight, wait until they are done, and go on.

        QEMU is idle before and after each turn, so that it does the same work in the same order
        each time. Raises as `Part.wait` does.
        """
        turns, rest = divmod(self.requests, len(self.parts[0].chains))
        assert turns and not rest
        for _ in range(turns):
            for part in self.parts:
                part.hand_over()
                self._settle(part)
            for part in self.parts:
                part.wait()
            self._settle(self.parts[0])

    @staticmethod
    def _settle(part: Part) -> None:
        """A QTest round trip: QEMU's main loop answers after its current work."""
        part.driver.transport.qtest.endianness()


@dataclass(frozen=True)
class Relayed(Load):
    """Work for a back-end, of which QEMU passes on a kick and a call for each request.

    The requests are handed over one by one. Otherwise the number of calls for an interrupt
    would depend on how fast the back-end is.

    Attributes:
        backend: serves the queue.
        message: address of the word that an interrupt writes.
    """

    backend: Backend = field(kw_only=True)
    message: int = field(kw_only=True)

    def batch(self) -> None:
        """Hand over each request once the one before has interrupted.

        Raises:
            NoAnswer: the back-end has lost QEMU.
            TimeoutError, VirtioError: as `Part.wait_one`, or there was no interrupt.
        """
        (part,) = self.parts
        for chain in part.chains:
            part.driver.memory.write(self.message, bytes(len(MESSAGE)))
            part.queue.add(chain)
            part.notify()
            # Sleeps, rather than keep the back-end's thread from its work.
            self.backend.settle()
            part.wait_one()
            poll_until(self._interrupted, SERVED_S, lambda: "an interrupt")
        self.backend.forget()

    def _interrupted(self) -> bool | None:
        said = self.parts[0].driver.memory.read(self.message, len(MESSAGE))
        return said == MESSAGE or None


def driver(transport: Transport, memory: GuestMemory, packed: bool) -> Driver:
    """A driver that has negotiated, and is interrupted for each buffer.

    EVENT_IDX is left out: how often a device interrupts would depend on how fast we look.
    """
    extra = [FeatureBit.INDIRECT_DESC, *([FeatureBit.RING_PACKED] if packed else [])]
    made = Driver(transport, memory, Behaviour(supports=MODERN | mask(extra)))
    made.negotiate()
    return made


def reads(made: Driver) -> Load:
    """4 KiB reads from places of a disk that are not side by side."""
    memory = made.memory
    (queue,) = _started(made, [blk.REQUESTQ])
    chains = []
    for number in range(DEPTH):
        header = memory.put(struct.pack("<IIQ", blk.BlkRequest.IN, 0, number * STRIDE))
        room, status = memory.take(PAGE, PAGE), memory.take(1)
        chains.append(
            [
                Buffer(header, 16),
                Buffer(room, PAGE, writable=True),
                Buffer(status, 1, writable=True),
            ]
        )
    return Load([Part(made, queue, chains, PAGE + 1)])


def draws(made: Driver) -> Load:
    """Draws of 16 bytes from an entropy device."""
    (queue,) = _started(made, [rng.REQUESTQ])
    rooms = [made.memory.take(RANDOM_BYTES) for _ in range(queue.size)]
    chains = [[Buffer(room, RANDOM_BYTES, writable=True)] for room in rooms]
    # QEMU 10.2's queue has 8 entries: one turn is too little to count.
    return Load([Part(made, queue, chains, RANDOM_BYTES)], max(8 * DEPTH, len(chains)))


def frames(sender: Driver, receiver: Driver) -> Load:
    """Frames of 1500 bytes from one network card to another."""
    header = bytes(struct.calcsize("<" + net.HEADER + net.NUM_BUFFERS))
    size = len(header) + len(FRAME)
    _, transmitq = _started(sender, [net.RECEIVEQ, net.TRANSMITQ])
    receiveq, _ = _started(receiver, [net.RECEIVEQ, net.TRANSMITQ])
    rooms = [receiver.memory.take(PAGE, PAGE) for _ in range(DEPTH)]
    room = [[Buffer(address, PAGE, writable=True)] for address in rooms]
    out = [[Buffer(sender.memory.put(header + FRAME), size)]] * DEPTH
    return Load([Part(receiver, receiveq, room, size), Part(sender, transmitq, out, 0)])


def relayed(made: Driver, backend: Backend, index: int) -> Load:
    """Requests without a meaning on one of a device's queues, which a back-end fills."""
    memory = made.memory
    message = memory.take(len(MESSAGE), len(MESSAGE))
    (queue,) = _started(made, [index], message)
    chains = [
        [Buffer(memory.take(READABLE), READABLE), Buffer(memory.take(ROOM), ROOM, writable=True)]
        for _ in range(DEPTH)
    ]
    return Relayed([Part(made, queue, chains, ROOM)], backend=backend, message=message)


def _started(made: Driver, indices: Sequence[int], message: int | None = None) -> list[Queue]:
    """A device's queues, each with a vector of MSI-X where there is that, and DRIVER_OK.

    Args:
        message: address of the word in RAM that an interrupt writes; any if None.
    """
    queues = [made.queue(index, ENTRIES) for index in indices]
    transport = made.transport
    if isinstance(transport, PciModern):
        # In RAM: without an interrupt controller, an interrupt is just a write to memory.
        if message is None:
            message = made.memory.take(len(MESSAGE), len(MESSAGE))
        vector = (made.memory.physical(message), int.from_bytes(MESSAGE, "little"))
        transport.function.enable_msi_x(transport.bars, [vector] * (len(queues) + 1))
        for number, queue in enumerate(queues, 1):
            transport.set_queue_vector(queue.index, number)
    made.start()
    return queues
