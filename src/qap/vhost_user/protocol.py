"""vhost-user messages with their file descriptors, and the channel that carries them."""

import array
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

from qap.host.errors import QapError
from qap.vhost_user.message_types import (
    BackendRequest,
    FrontendRequest,
    ProtocolFeature,
    Requests,
    named,
    request_name,
)

__all__ = [
    "NEED_REPLY",
    "REPLY",
    "VERSION",
    "BackendRequest",
    "ByteOrder",
    "Channel",
    "Disconnected",
    "FrontendRequest",
    "Message",
    "ProtocolError",
    "ProtocolFeature",
    "close_fds",
    "request_name",
]

ByteOrder = Literal["=", "<", ">"]

VERSION = 1
VERSION_MASK = 0x3
REPLY = 1 << 2
NEED_REPLY = 1 << 3

HEADER_WORDS = "III"
# The largest payload in use is a crypto session's; all others are below 300 bytes.
MAX_PAYLOAD = 4096
# SCM_MAX_FD of Linux: no sender can attach more, so the buffer is always large enough.
MAX_FDS = 253
FDS_SIZE = socket.CMSG_SPACE(4 * MAX_FDS)
READ_SIZE = 8192
_TRUNCATED = int(socket.MSG_CTRUNC)


class ProtocolError(QapError):
    """A peer sent something that vhost-user.rst doesn't allow or that qap doesn't support."""


class Disconnected(QapError):
    """The peer closed its connection between two messages."""


def close_fds(fds: Iterable[int]) -> None:
    """Close file descriptors that the caller owns."""
    for fd in fds:
        os.close(fd)


@dataclass
class Message:
    """One message; it owns its file descriptors until close() or take_fds().

    Attributes:
        request: its number, as a FrontendRequest or BackendRequest if known.
        payload: in the byte order of the connection that carries the message.
        flags: version, REPLY and NEED_REPLY bits of the header.
        fds: file descriptors in the ancillary data.
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

    It reads as much as the socket has: the next message may already be buffered here. Look
    at `pending` before you poll the socket.

    Args:
        sock: the connection; the caller keeps owning it.
        peer: name of the other end in error messages.
        order: byte order of the header: "=", the host's own, is that of vhost-user.rst;
            "<" and ">" are for a peer that may run in another byte order.
        requests: the requests that are sent on this socket.
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
        self._names = named(requests)
        self._data = b""
        # For each read that came with file descriptors: its end in _data, and the descriptors.
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
        """Close the file descriptors of messages that were not received."""
        while self._fds:
            close_fds(self._fds.pop()[1])

    def _take_fds(self, size: int) -> list[int]:
        """The file descriptors of the message in the first `size` bytes.

        Linux ends a read after data that came with file descriptors. So they belong to the
        message whose bytes were the last of that read.
        """
        taken = [fd for end, fds in self._fds if end <= size for fd in fds]
        self._fds = [(end - size, fds) for end, fds in self._fds if end > size]
        return taken

    def _next_size(self) -> int:
        """Size of the next message in bytes; of its header if that is not complete yet."""
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
