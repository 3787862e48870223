"""vhost-user's words: requests, feature bits, and messages with their file descriptors."""

import array
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Literal, Self

from qap.host.errors import QapError

ByteOrder = Literal["=", "<", ">"]

VERSION = 1
VERSION_MASK = 0x3
REPLY = 1 << 2
NEED_REPLY = 1 << 3

HEADER_WORDS = "III"
# The largest payload in use is a crypto session's; the rest stay under 300 bytes.
MAX_PAYLOAD = 4096
# SCM_MAX_FD of Linux: no sender can attach more, so none is ever cut off for want of room.
MAX_FDS = 253
FDS_SIZE = socket.CMSG_SPACE(4 * MAX_FDS)
READ_SIZE = 8192
_TRUNCATED = int(socket.MSG_CTRUNC)


class FrontendRequest(IntEnum):
    """vhost-user.rst, "Front-end message types"."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class BackendRequest(IntEnum):
    """vhost-user.rst, "Back-end message types": what travels on the back-end channel."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8


class ProtocolFeature(IntEnum):
    """vhost-user.rst, "Protocol features": bit numbers."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19


class ProtocolError(QapError):
    """A peer sent something that vhost-user.rst doesn't allow, or that qap doesn't know."""


class Disconnected(QapError):
    """The peer closed its connection, between two messages."""


Requests = type[FrontendRequest] | type[BackendRequest]


def request_name(request: int, requests: Requests = FrontendRequest) -> str:
    """A request as messages and errors show it, with its number."""
    known = _named(requests).get(request)
    return f"request {request}" if known is None else f"{known.name} ({request})"


@cache
def _named(requests: Requests) -> dict[int, FrontendRequest | BackendRequest]:
    return {int(one): one for one in requests}


def close_fds(fds: Iterable[int]) -> None:
    """Close file descriptors that the caller owns."""
    for fd in fds:
        os.close(fd)


@dataclass
class Message:
    """One message; it owns its file descriptors until close() or take_fds().

    Attributes:
        request: its number; a FrontendRequest if that is known.
        payload: in the byte order of the connection it came from or goes to.
        flags: version, REPLY and NEED_REPLY bits of the header.
        fds: what came, or is to go, in the ancillary data.
    """

    request: int
    payload: bytes = b""
    flags: int = VERSION
    fds: list[int] = field(default_factory=list)

    @property
    def is_reply(self) -> bool:
        return bool(self.flags & REPLY)

    @property
    def needs_reply(self) -> bool:
        return bool(self.flags & NEED_REPLY)

    def reply(self, payload: bytes = b"", fds: Iterable[int] = ()) -> "Message":
        """The reply to this request; it owns `fds`."""
        return Message(self.request, payload, VERSION | REPLY, list(fds))

    def take_fds(self) -> list[int]:
        """Hand the file descriptors to the caller, who closes them."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        close_fds(self.take_fds())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Channel:
    """A connected Unix stream socket that carries messages whole.

    It reads as much as there is: after `receive`, `pending` says whether the next message
    is here already, for whoever would poll the socket first.

    Args:
        sock: the connection; the caller keeps owning it.
        peer: who is at the other end, as errors name it.
        order: byte order of the header's words: "=" is the host's own, as in
            vhost-user.rst, the others serve a peer that runs in another one.
        requests: the requests that travel here.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        order: ByteOrder = "=",
        requests: Requests = FrontendRequest,
    ) -> None:
        self.sock = sock
        self.peer = peer
        self._header = struct.Struct(order + HEADER_WORDS)
        self._requests = requests
        self._names = _named(requests)
        self._data = b""
        # Where in _data a read ended that brought file descriptors, and these.
        self._fds: list[tuple[int, list[int]]] = []

    def receive(self) -> Message:
        """Wait for the next message; the caller owns it.

        Raises:
            Disconnected: the peer closed instead of sending one.
            ProtocolError: the peer closed in mid-message, or the header is wrong.
        """
        try:
            size = self._next_size()
            while len(self._data) < size:
                self._read(size)
                size = self._next_size()
        except BaseException:
            self.close()
            raise
        data, self._data = self._data, b""
        if len(data) > size:
            data, self._data = data[:size], data[size:]
        request, flags, _ = self._header.unpack_from(data)
        fds = self._take_fds(size) if self._fds else []
        return Message(self._names.get(request, request), data[self._header.size :], flags, fds)

    @property
    def pending(self) -> bool:
        """Whether `receive` would return without waiting.

        Raises:
            ProtocolError: as `receive` would.
        """
        return bool(self._data) and len(self._data) >= self._next_size()

    def send(self, message: Message) -> None:
        """Send a message with copies of its file descriptors; the caller still owns them.

        Raises:
            Disconnected: the peer closed.
        """
        head = self._header.pack(message.request, message.flags, len(message.payload))
        data = head + message.payload
        try:
            sent = socket.send_fds(self.sock, [data], message.fds) if message.fds else 0
            self.sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as exc:
            name = request_name(message.request, self._requests)
            raise Disconnected(f"{self.peer} closed before {name} was sent") from exc

    def close(self) -> None:
        """Close the file descriptors of messages that nobody has received."""
        while self._fds:
            close_fds(self._fds.pop()[1])

    def _take_fds(self, size: int) -> list[int]:
        """Those of the message that was the first `size` bytes.

        Linux ends a read after data that file descriptors came with, so that they belong
        to the message whose bytes were the last of that read.
        """
        taken = [fd for end, fds in self._fds if end <= size for fd in fds]
        self._fds = [(end - size, fds) for end, fds in self._fds if end > size]
        return taken

    def _next_size(self) -> int:
        """Bytes of the next message, of its header while that isn't whole."""
        if len(self._data) < self._header.size:
            return self._header.size
        request, flags, size = self._header.unpack_from(self._data)
        if flags & VERSION_MASK != VERSION:
            raise ProtocolError(
                f"{request_name(request, self._requests)} from {self.peer} has flags "
                f"{flags:#x}: version {flags & VERSION_MASK} instead of {VERSION}"
            )
        if size > MAX_PAYLOAD:
            raise ProtocolError(
                f"{request_name(request, self._requests)} from {self.peer} announces {size} "
                f"bytes, more than {MAX_PAYLOAD}"
            )
        return self._header.size + int(size)

    def _read(self, size: int) -> None:
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                READ_SIZE, FDS_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, ancillary, flags = b"", [], 0
        self._data += data
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self._fds.append((len(self._data), list(fds)))
        if flags & _TRUNCATED:
            raise ProtocolError(f"file descriptors from {self.peer} were lost: raise `ulimit -n`")
        if data:
            return
        if not self._data:
            raise Disconnected(f"{self.peer} closed the vhost-user connection")
        head = self._header.size if len(self._data) >= self._header.size else 0
        raise ProtocolError(
            f"{self.peer} closed in mid-message, after {len(self._data) - head} of "
            f"{size - head} bytes"
        )
