"""A front-end's shared memory with rings in it, to test a back-end."""

import mmap
import os
import select
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

from qap.oracle.features import FeatureBit, mask
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import NEED_REPLY, VERSION

from .front_end import PATIENCE_S, Frontend, R, u64

GUEST_BASE = 0x4000_0000
USER_BASE = 0x7F00_0000_0000
IOVA_BASE = 0x1_0000_0000
SIZE = 0x10000
ENTRIES = 8

# Offsets in the memory.
DESC, DRIVER, DEVICE, TABLE, DATA = 0x0000, 0x1000, 0x2000, 0x3000, 0x4000

NEXT, WRITE, INDIRECT = 1, 2, 4

D = TypeVar("D", bound="RingDriver")


class Buffer(NamedTuple):
    """A buffer at an offset in the memory."""

    offset: int
    size: int
    flags: int = 0


class SharedMemory:
    """A region of 64 KiB that a test writes and a back-end maps."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("driver")
        os.ftruncate(self.fd, SIZE)
        self.map = mmap.mmap(self.fd, SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.map.close()
        os.close(self.fd)

    def put(self, offset: int, data: bytes) -> None:
        self.map[offset : offset + len(data)] = data

    def get(self, offset: int, size: int) -> bytes:
        return self.map[offset : offset + size]


@dataclass
class RingDriver:
    """A queue set up in shared memory, with its two eventfds.

    Attributes:
        rings, buffers: base addresses of rings and buffers, as the back-end is told.
        features: acknowledged features.
    """

    backend: Backend
    front: Frontend
    memory: SharedMemory
    features: int
    index: int = 0
    rings: int = USER_BASE
    buffers: int = GUEST_BASE
    order: Literal["<", ">"] = "<"
    base: int | None = None
    _added: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3)]
        self.kick, self.call, self.err = self._fds

    def has(self, bit: int) -> bool:
        return bool(self.features >> bit & 1)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def connect(self) -> None:
        """Set the ring up as QEMU does, but without enabling it."""
        front = self.front
        front.tell(R.SET_FEATURES, u64(self.features))
        region = struct.pack("=IIQQQQ", 1, 0, GUEST_BASE, SIZE, USER_BASE, 0)
        front.tell(R.SET_MEM_TABLE, region, fds=[self.memory.fd])
        self.set_up()
        front.tell(R.SET_VRING_KICK, u64(self.index), fds=[self.kick])
        front.tell(R.SET_VRING_CALL, u64(self.index), fds=[self.call])
        front.tell(R.SET_VRING_ERR, u64(self.index), fds=[self.err])

    def set_up(self) -> None:
        index, rings = self.index, self.rings
        self.front.tell(R.SET_VRING_NUM, struct.pack("=II", index, ENTRIES))
        if self.base is not None:
            self.front.tell(R.SET_VRING_BASE, struct.pack("=II", index, self.base))
        where = struct.pack("=IIQQQQ", index, 0, rings + DESC, rings + DEVICE, rings + DRIVER, 0)
        self.front.tell(R.SET_VRING_ADDR, where)

    def enable(self, yes: bool = True) -> None:
        payload = struct.pack("=II", self.index, yes)
        assert self.front.ask_u64(R.SET_VRING_ENABLE, payload, VERSION | NEED_REPLY) == 0

    def notify(self) -> None:
        """Kick, and wait until the back-end has served all available chains."""
        os.eventfd_write(self.kick, 1)
        self.sync()

    def sync(self) -> None:
        """Wait until earlier kicks and messages are handled."""
        self.backend.settle()

    def wait_call(self) -> None:
        _wait(self.call, "a call")

    def wait_error(self) -> None:
        _wait(self.err, "an error")

    def calls(self) -> int:
        return _count(self.call)

    def errors(self) -> int:
        return _count(self.err)


class Split(RingDriver):
    """A split ring (virtio 1.3, 2.7); chains use consecutive descriptors."""

    def add(self, buffers: Sequence[Buffer], *, indirect: bool = False, at: int = 0) -> None:
        """Make a chain available that begins at descriptor `at`."""
        if indirect:
            self.memory.put(TABLE, self._table(buffers, 0))
            buffers = [Buffer(TABLE, 16 * len(buffers), INDIRECT)]
        self.memory.put(DESC + 16 * at, self._table(buffers, at))
        self.publish(at)

    def _table(self, buffers: Sequence[Buffer], at: int) -> bytes:
        last = len(buffers) - 1
        return b"".join(
            struct.pack(
                self.order + "QIHH",
                self.buffers + buffer.offset,
                buffer.size,
                buffer.flags | (NEXT if number < last else 0),
                at + number + 1 if number < last else 0,
            )
            for number, buffer in enumerate(buffers)
        )

    def publish(self, head: int) -> None:
        idx = ((self.base or 0) + self._added) % 0x10000
        self.memory.put(DRIVER + 4 + 2 * (idx % ENTRIES), struct.pack(self.order + "H", head))
        self._added += 1
        self.memory.put(DRIVER + 2, struct.pack(self.order + "H", (idx + 1) % 0x10000))

    def set_driver_flags(self, flags: int) -> None:
        self.memory.put(DRIVER, struct.pack(self.order + "H", flags))

    def set_used_event(self, idx: int) -> None:
        self.memory.put(DRIVER + 4 + 2 * ENTRIES, struct.pack(self.order + "H", idx))

    @property
    def avail_event(self) -> int:
        raw = self.memory.get(DEVICE + 4 + 8 * ENTRIES, 2)
        return int(struct.unpack(self.order + "H", raw)[0])

    @property
    def used_idx(self) -> int:
        return int(struct.unpack(self.order + "H", self.memory.get(DEVICE + 2, 2))[0])

    def used(self, number: int) -> tuple[int, int]:
        """Id and length of a used entry, by its index."""
        raw = self.memory.get(DEVICE + 4 + 8 * (number % ENTRIES), 8)
        used_id, length = struct.unpack(self.order + "II", raw)
        return used_id, length


class Packed(RingDriver):
    """A packed ring (virtio 1.3, 2.8)."""

    def add(self, buffers: Sequence[Buffer], buffer_id: int, *, indirect: bool = False) -> None:
        if indirect:
            table = b"".join(
                struct.pack("<QIHH", self.buffers + buffer.offset, buffer.size, 0, buffer.flags)
                for buffer in buffers
            )
            self.memory.put(TABLE, table)
            buffers = [Buffer(TABLE, len(table), INDIRECT)]
        raw = []
        for number, buffer in enumerate(buffers):
            at = self._added + number
            wrap = at // ENTRIES % 2 == 0
            flags = buffer.flags | (NEXT if number + 1 < len(buffers) else 0)
            flags |= 1 << 7 if wrap else 1 << 15
            address = self.buffers + buffer.offset
            raw.append((at % ENTRIES, struct.pack("<QIHH", address, buffer.size, buffer_id, flags)))
        for slot, desc in reversed(raw):
            self.memory.put(DESC + 16 * slot, desc)
        self._added += len(buffers)

    def used(self, at: int) -> tuple[int, int] | None:
        """Id and length of the used entry at a position counted from the start, or None."""
        raw = self.memory.get(DESC + 16 * (at % ENTRIES), 16)
        _, length, buffer_id, flags = struct.unpack("<QIHH", raw)
        marks = bool(flags & 1 << 7), bool(flags & 1 << 15)
        wrap = at // ENTRIES % 2 == 0
        return (buffer_id, length) if marks == (wrap, wrap) else None

    def set_driver_event(self, off_wrap: int, flags: int) -> None:
        self.memory.put(DRIVER, struct.pack("<HH", off_wrap, flags))

    @property
    def device_event(self) -> tuple[int, int]:
        off_wrap, flags = struct.unpack("<HH", self.memory.get(DEVICE, 4))
        return off_wrap, flags


class Bench:
    """A back-end, a front-end that is connected to it, and their shared memory."""

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self.owned = owned
        self.backend = owned.enter_context(Backend(folder / "s", features=0))
        self.memory = owned.enter_context(SharedMemory())
        self.front = Frontend(self.backend.path)
        owned.callback(self.front.close)
        # After this answer the back-end has opened all files of the connection.
        self.front.ask_u64(R.GET_QUEUE_NUM)

    def driver(self, kind: type[D], *bits: int, base: int | None = None) -> D:
        """A driver with a queue that is set up and enabled."""
        driver = self.connected(kind, *bits, base=base)
        driver.enable()
        return driver

    def connected(self, kind: type[D], *bits: int, base: int | None = None) -> D:
        """A driver with a queue that is set up and not enabled."""
        driver = kind(self.backend, self.front, self.memory, features(*bits), base=base)
        self.owned.callback(driver.close)
        driver.connect()
        return driver


def _wait(fd: int, what: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000), f"waited {PATIENCE_S:g} s for {what}"


def _count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def features(*bits: int) -> int:
    """A feature word of these bits, VHOST_USER_PROTOCOL_FEATURES and VERSION_1."""
    return mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES, FeatureBit.VERSION_1, *bits])
