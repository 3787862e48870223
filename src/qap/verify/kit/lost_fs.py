"""A virtiofs that loses its back-end, and a driver that has requests out meanwhile."""

import struct
from dataclasses import dataclass, field

from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.oracle.features import mask
from qap.verify.kit.lab import Lab
from qap.vhost_user.chain_service import ChainService, Later
from qap.virtio import fs
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.fs import Opcode
from qap.virtio.queue import Buffer, ByteOrder, Queue
from qap.virtio.transport import Transport

WAIT_S = 3.0
# Bytes for an answer to LOOKUP: its header and fuse_entry_out.
ANSWER = 144


def failing(lab: Lab) -> Device:
    """The property that has requests fail; stock QEMU has none."""
    return {} if lab.build.is_base else {"x-fail-requests": True}


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


def asker(transport: Transport, *extra: int, order: ByteOrder = "<") -> Asker:
    """A driver that has set DRIVER_OK."""
    supports = Behaviour(MODERN | mask(extra))
    driver = Driver(transport, GuestMemory(transport.qtest), supports)
    driver.negotiate()
    driver.queue(fs.HIPRIO)
    queue = driver.queue(fs.REQUESTQ)
    driver.start()
    return Asker(driver, queue, order)


def server(*kept: int) -> ChainService:
    """Answers requests without an error, but keeps those with these unique numbers."""

    def serve(queue: int, readable: bytes, room: int) -> bytes | Later | None:
        (_, _, unique) = struct.unpack_from("<IIQ", readable)
        if unique in kept:
            return None
        return struct.pack("<" + fs.OUT_HEADER, 16, 0, unique)

    return serve
