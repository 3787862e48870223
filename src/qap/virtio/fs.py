"""A file system device's driver, and the FUSE requests that read and write a file.

The device is virtio 1.3, section 5.11. Requests, flags and structures of FUSE are those
of Linux' fuse.h, version 7.31, which every later server speaks.
"""

import itertools
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer, ByteOrder
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 26
# 5.11.2; a notification queue would come between them (NOTIFICATION, bit 0).
HIPRIO = 0
REQUESTQ = 1

# 5.11.4.
TAG_SIZE = 36
NUM_REQUEST_QUEUES = 36

ROOT = 1
MAJOR = 7
MINOR = 31
# FUSE: the longest request and answer here, without their headers.
ROOM = 1 << 16

# fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen and padding.
# fuse_out_header: len, error, unique.
IN_HEADER = "IIQQIIIHH"
OUT_HEADER = "IiQ"
# fuse_init_in and fuse_init_out: major, minor, max_readahead, flags; fuse_init_out also has
# max_background, congestion_threshold, max_write and fields that this driver doesn't use.
INIT_IN = "IIII"
INIT_OUT = "IIIIHHI"
# fuse_entry_out: nodeid, generation, two validity times with their nanoseconds, and fuse_attr:
# ino, size, blocks, three times with nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags.
ENTRY_OUT = "QQQQIIQQQQQQIIIIIIIIII"
SIZE_FIELD = 7
# fuse_open_in, fuse_create_in and fuse_open_out: fh, open_flags, padding.
OPEN_IN = "II"
CREATE_IN = "IIII"
OPEN_OUT = "QII"
# fuse_read_in and fuse_write_in: fh, offset, size, flags of the request, lock_owner,
# flags of the file, padding. fuse_write_out: size, padding.
IO_IN = "QQIIQII"
WRITE_OUT = "II"
# fuse_release_in: fh, flags, release_flags, lock_owner.
RELEASE_IN = "QIIQ"
FORGET_IN = "Q"


class Opcode(IntEnum):
    """opcode of struct fuse_in_header."""

    LOOKUP = 1
    FORGET = 2
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    INIT = 26
    CREATE = 35


class FuseError(VirtioError):
    """The server answered with an error.

    Attributes:
        errno: Linux' number of the error, positive.
    """

    def __init__(self, opcode: Opcode, number: int) -> None:
        super().__init__(f"FUSE {opcode.name}: {os.strerror(number)}")
        self.errno = number


@dataclass(frozen=True)
class FuseEntry:
    """A file: the server's number for it, and its size in bytes."""

    nodeid: int
    size: int


class Fs:
    """A file system on a device whose features are negotiated; sets DRIVER_OK.

    Any method raises FuseError if the server refuses, TimeoutError if it does not answer,
    VirtioError if its answer is malformed.

    Args:
        order: byte order of FUSE messages. The driver chooses it, and the server detects it
            from INIT's opcode (5.11.6.1). A guest's kernel uses its own.
        owner: user and group id to act for.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        order: ByteOrder = "<",
        owner: tuple[int, int] = (0, 0),
        timeout: float = SERVED_S,
    ) -> None:
        self.driver = driver
        self.hiprio = driver.queue(HIPRIO)
        self.requestq = driver.queue(REQUESTQ)
        self._order = order
        self._owner = owner
        self._timeout = timeout
        self._in = self._struct(IN_HEADER)
        self._out = self._struct(OUT_HEADER)
        self._asked = driver.memory.take(self._in.size + ROOM)
        self._said = driver.memory.take(self._out.size + ROOM)
        # Linux uses even numbers for requests and odd ones for interrupts.
        self._unique = itertools.count(2, 2)
        driver.start()

    @property
    def tag(self) -> str:
        """The file system's name, from the device's configuration (5.11.4)."""
        raw = self.driver.transport.config_read(0, TAG_SIZE)
        return raw.partition(b"\0")[0].decode()

    @property
    def num_request_queues(self) -> int:
        """From the device's configuration (5.11.4)."""
        raw = self.driver.transport.config_read(NUM_REQUEST_QUEUES, 4)
        return int.from_bytes(raw, "little")

    def init(self) -> tuple[int, int]:
        """Begin a session; returns the server's major and minor version (5.11.5)."""
        asked = self._struct(INIT_IN).pack(MAJOR, MINOR, ROOM, 0)
        major, minor, *_ = self._parsed(Opcode.INIT, ROOT, asked, INIT_OUT)
        return major, minor

    def lookup(self, parent: int, name: str) -> FuseEntry:
        """The file with a name in a folder; call `forget` for it in the end."""
        fields = self._parsed(Opcode.LOOKUP, parent, name.encode() + b"\0", ENTRY_OUT)
        return FuseEntry(fields[0], fields[SIZE_FIELD])

    def open(self, nodeid: int, flags: int = os.O_RDONLY) -> int:
        """A handle for a file, with Linux' flags of open(2); call `release` in the end."""
        asked = self._struct(OPEN_IN).pack(flags, 0)
        return self._parsed(Opcode.OPEN, nodeid, asked, OPEN_OUT)[0]

    def create(self, parent: int, name: str, mode: int = 0o644) -> tuple[FuseEntry, int]:
        """Create a file in a folder and open it to read and write; returns it and its handle."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        asked = self._struct(CREATE_IN).pack(flags, mode, 0, 0) + name.encode() + b"\0"
        # Two structures of whole 8 bytes each: no padding between them.
        fields = self._parsed(Opcode.CREATE, parent, asked, ENTRY_OUT + OPEN_OUT)
        return FuseEntry(fields[0], fields[SIZE_FIELD]), fields[len(ENTRY_OUT)]

    def read(self, nodeid: int, handle: int, offset: int, size: int) -> bytes:
        """At most `size` bytes, fewer at the file's end; `size` must not be more than ROOM."""
        asked = self._struct(IO_IN).pack(handle, offset, size, 0, 0, 0, 0)
        return self._request(Opcode.READ, nodeid, asked, size)

    def write(self, nodeid: int, handle: int, offset: int, data: bytes) -> int:
        """Write data; returns the bytes that were written. IO_IN and data must fit into ROOM."""
        asked = self._struct(IO_IN).pack(handle, offset, len(data), 0, 0, 0, 0)
        return self._parsed(Opcode.WRITE, nodeid, asked + data, WRITE_OUT)[0]

    def release(self, nodeid: int, handle: int) -> None:
        """Give a handle back."""
        asked = self._struct(RELEASE_IN).pack(handle, 0, 0, 0)
        self._request(Opcode.RELEASE, nodeid, asked, 0)

    def forget(self, nodeid: int, lookups: int = 1) -> None:
        """Undo this many lookups, on the hiprio queue (5.11.6.2); there is no answer.

        Raises:
            TimeoutError: the device did not take it.
        """
        size = self._ask(Opcode.FORGET, nodeid, self._struct(FORGET_IN).pack(lookups))[0]
        self.driver.serve(self.hiprio, [Buffer(self._asked, size)], self._timeout)

    def _ask(self, opcode: Opcode, nodeid: int, body: bytes) -> tuple[int, int]:
        """Put a request into memory; returns its size and its unique number."""
        size, unique = self._in.size + len(body), next(self._unique)
        header = self._in.pack(size, opcode, unique, nodeid, *self._owner, 0, 0, 0)
        self.driver.memory.write(self._asked, header + body)
        return size, unique

    def _parsed(self, opcode: Opcode, nodeid: int, body: bytes, words: str) -> tuple[int, ...]:
        layout = self._struct(words)
        answer = self._request(opcode, nodeid, body, ROOM)
        if len(answer) < layout.size:
            raise VirtioError(f"FUSE {opcode.name}: an answer of {len(answer)} bytes came")
        return layout.unpack_from(answer)

    def _request(self, opcode: Opcode, nodeid: int, body: bytes, room: int) -> bytes:
        """Send a request; returns its answer without the header."""
        memory = self.driver.memory
        size, unique = self._ask(opcode, nodeid, body)
        answer = Buffer(self._said, self._out.size + room, writable=True)
        used = self.driver.serve(self.requestq, [Buffer(self._asked, size), answer], self._timeout)
        if not self._out.size <= used.length <= answer.size:
            raise VirtioError(f"FUSE {opcode.name}: {used.length} bytes came in {answer.size}")
        said = memory.read(self._said, used.length)
        size, error, its_unique = self._out.unpack_from(said)
        if size != len(said) or its_unique != unique:
            raise VirtioError(
                f"FUSE {opcode.name}: {len(said)} bytes came for {size} to request {its_unique}"
            )
        if error:
            raise FuseError(opcode, -error)
        return said[self._out.size :]

    def _struct(self, words: str) -> struct.Struct:
        return struct.Struct(self._order + words)
