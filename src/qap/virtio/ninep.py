"""A 9P transport's driver, and the 9P2000.L messages that read and write a file.

Virtio 1.3 defines only the device's ID (section 5); feature and configuration are those of
Linux' virtio_9p.h. "9P" is section 5 of the Plan 9 manual, "9P2000.L" the protocol
description of the diod server. 9P is little-endian on every guest.
"""

import errno
import os
import struct
from enum import IntEnum

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 9
REQUESTQ = 0
FEATURE_MOUNT_TAG = 0

VERSION = "9P2000.L"
MSIZE = 8192
# 9P intro: size, type and tag; a qid is type, version and path.
HEADER = struct.Struct("<IBH")
QID = struct.Struct("<BIQ")
# 9P version and attach: no tag, no fid; the fid of the share's root here.
NOTAG = 0xFFFF
NOFID = 0xFFFF_FFFF
ROOT = 0
# 9P read and write: bytes of a message besides the data.
IOHDRSZ = 24


class NinepMessage(IntEnum):
    """Types of requests (9P and 9P2000.L); the type of the answer is one more."""

    LERROR = 6
    LOPEN = 12
    LCREATE = 14
    VERSION = 100
    ATTACH = 104
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120


class NinePError(VirtioError):
    """The server answered with Rlerror.

    Attributes:
        errno: Linux' number of the error.
    """

    def __init__(self, message: NinepMessage, number: int) -> None:
        super().__init__(f"T{message.name.lower()}: {os.strerror(number)}")
        self.errno = number


class NineP:
    """A file server on a device whose features are negotiated; sets DRIVER_OK.

    Any method raises NinePError if the server refuses, TimeoutError if it does not answer,
    VirtioError if its answer is malformed. A fid is a number for a file that the caller
    chooses (9P intro).

    Args:
        timeout: seconds to wait for an answer.
    Attributes:
        msize: bytes of the longest message; negotiated by `version`.
    """

    def __init__(self, driver: Driver, timeout: float = SERVED_S) -> None:
        self.driver = driver
        self.requestq = driver.queue(REQUESTQ)
        self.msize = MSIZE
        self._timeout = timeout
        self._asked = driver.memory.take(MSIZE)
        self._said = driver.memory.take(MSIZE)
        driver.start()

    @property
    def mount_tag(self) -> str:
        """The name of the share, from the configuration: le16 tag_len and the tag.

        Raises:
            VirtioError: MOUNT_TAG was not accepted.
        """
        if not self.driver.has(FEATURE_MOUNT_TAG):
            raise VirtioError("the driver did not accept MOUNT_TAG: there is no tag")
        transport = self.driver.transport
        (size,) = struct.unpack(f"{self.driver.order}H", transport.config_read(0, 2))
        return transport.config_read(2, size).decode()

    def version(self) -> str:
        """Begin a session and negotiate the size of messages; returns the server's version."""
        asked = struct.pack("<I", MSIZE) + _string(VERSION)
        answer = self._request(NinepMessage.VERSION, asked, tag=NOTAG)
        msize, size = self._unpack("<IH", answer)
        if not IOHDRSZ < msize <= MSIZE or len(answer) != 6 + size:
            raise VirtioError(f"Rversion gives messages {msize} bytes and itself {len(answer)}")
        self.msize = msize
        return answer[6:].decode()

    def attach(self, uid: int, *, fid: int = ROOT) -> None:
        """Let `fid` be the root of the share, for a user."""
        asked = struct.pack("<II", fid, NOFID) + _string("") + _string("")
        self._qid(self._request(NinepMessage.ATTACH, asked + struct.pack("<I", uid)))

    def walk(self, fid: int, newfid: int, *names: str) -> None:
        """Let `newfid` be the file at this path below `fid`; `names` are its components."""
        asked = struct.pack("<IIH", fid, newfid, len(names)) + b"".join(map(_string, names))
        (count,) = self._unpack("<H", self._request(NinepMessage.WALK, asked))
        if count != len(names):
            raise NinePError(NinepMessage.WALK, errno.ENOENT)

    def open(self, fid: int, flags: int = os.O_RDONLY) -> None:
        """Open a file with Linux' flags of open(2)."""
        self._qid(self._request(NinepMessage.LOPEN, struct.pack("<II", fid, flags)))

    def create(self, fid: int, name: str, *, mode: int = 0o644, gid: int = 0) -> None:
        """Create a file in the folder `fid`; `fid` then is that file, open to read and write."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        rest = struct.pack("<III", flags, mode, gid)
        self._qid(
            self._request(NinepMessage.LCREATE, struct.pack("<I", fid) + _string(name) + rest)
        )

    def read(self, fid: int, offset: int, size: int) -> bytes:
        """At most `size` bytes of an open file, fewer at its end or because of `msize`."""
        size = min(size, self.msize - IOHDRSZ)
        answer = self._request(NinepMessage.READ, struct.pack("<IQI", fid, offset, size))
        (count,) = self._unpack("<I", answer)
        if len(answer) != 4 + count or count > size:
            raise VirtioError(f"Rread has {len(answer) - 4} bytes, says {count}, of {size}")
        return answer[4:]

    def write(self, fid: int, offset: int, data: bytes) -> int:
        """Write to an open file, at most what fits `msize`; returns the bytes that were written."""
        data = data[: self.msize - IOHDRSZ]
        head = struct.pack("<IQI", fid, offset, len(data))
        (count,) = self._unpack("<I", self._request(NinepMessage.WRITE, head + data))
        return count

    def clunk(self, fid: int) -> None:
        """Release a fid."""
        self._request(NinepMessage.CLUNK, struct.pack("<I", fid))

    def _request(self, message: NinepMessage, body: bytes, *, tag: int = 0) -> bytes:
        """Send a request; returns its answer without the header."""
        memory = self.driver.memory
        size = HEADER.size + len(body)
        memory.write(self._asked, HEADER.pack(size, message, tag) + body)
        chain = [Buffer(self._asked, size), Buffer(self._said, MSIZE, writable=True)]
        used = self.driver.serve(self.requestq, chain, self._timeout)
        said = memory.read(self._said, min(used.length, MSIZE)) if used.length else b""
        size, kind, its_tag = self._unpack(HEADER.format, said)
        if size != len(said) or its_tag != tag:
            raise VirtioError(
                f"T{message.name.lower()}: {len(said)} bytes came for {size} with tag {its_tag}"
            )
        if kind == NinepMessage.LERROR + 1:
            raise NinePError(message, self._unpack("<I", said[HEADER.size :])[0])
        if kind != message + 1:
            raise VirtioError(f"T{message.name.lower()}: an answer of type {kind} came")
        return said[HEADER.size :]

    def _qid(self, answer: bytes) -> None:
        self._unpack(QID.format, answer)

    @staticmethod
    def _unpack(words: str, data: bytes) -> tuple[int, ...]:
        if len(data) < struct.calcsize(words):
            raise VirtioError(f"an answer ends after {len(data)} bytes")
        return struct.unpack_from(words, data)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<H", len(raw)) + raw
