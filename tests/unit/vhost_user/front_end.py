"""The front-end's end of a vhost-user connection."""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from qap.oracle.features import FeatureBit, mask
from qap.vhost_user.protocol import (
    NEED_REPLY,
    REPLY,
    VERSION,
    Channel,
    Disconnected,
    FrontendRequest,
    Message,
)

R = FrontendRequest
# Enough for any machine; only a failing test waits so long.
PATIENCE_S = 5.0
FEATURES = mask(
    [FeatureBit.VERSION_1, FeatureBit.EVENT_IDX, FeatureBit.VHOST_USER_PROTOCOL_FEATURES]
)


class Frontend:
    """Sends requests on a vhost-user connection, as a front-end does."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(path))
        self.channel = Channel(self.sock, "the back-end under test")

    def tell(
        self, request: int, payload: bytes = b"", flags: int = VERSION, fds: Sequence[int] = ()
    ) -> None:
        self.channel.send(Message(request, payload, flags, list(fds)))

    def ask(self, request: int, payload: bytes = b"", flags: int = VERSION) -> bytes:
        self.tell(request, payload, flags)
        return self.answer(request)

    def answer(self, request: int) -> bytes:
        with self.channel.receive() as reply:
            assert (reply.request, reply.flags) == (request, VERSION | REPLY)
            assert reply.fds == []
            return reply.payload

    def ask_u64(self, request: int, payload: bytes = b"", flags: int = VERSION) -> int:
        value: int = struct.unpack("=Q", self.ask(request, payload, flags))[0]
        return value

    def handshake(self) -> None:
        """The first requests of vhost_user_backend_init() and vhost_dev_init()."""
        assert self.ask_u64(R.GET_FEATURES) == FEATURES
        offered = self.ask_u64(R.GET_PROTOCOL_FEATURES)
        self.tell(R.SET_PROTOCOL_FEATURES, u64(offered))
        assert self.ask_u64(R.GET_QUEUE_NUM) == 8
        self.tell(R.SET_OWNER)
        assert self.ask_u64(R.SET_FEATURES, u64(FEATURES), VERSION | NEED_REPLY) == 0

    def expect_end(self) -> None:
        with pytest.raises(Disconnected):
            self.channel.receive()

    def close(self) -> None:
        self.sock.close()


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def memfd(size: int = 0) -> Iterator[int]:
    fd = os.memfd_create("qap-test")
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
