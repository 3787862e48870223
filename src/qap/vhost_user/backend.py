"""A vhost-user back-end that answers every request and remembers what it was asked."""

import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qap.features import mask
from qap.vhost_user import layout
from qap.vhost_user.protocol import (
    Channel,
    FrontendRequest,
    Message,
    ProtocolError,
    ProtocolFeature,
    close_fds,
    request_name,
)
from qap.vhost_user.server import Server

DEFAULT_PROTOCOL_FEATURES = mask(
    [
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
    ]
)
MEM_SLOTS = 32
CONFIG_HEAD = 12

_R = FrontendRequest

# Requests that change nothing here: recorded, acknowledged when asked to.
_NOTED = frozenset(
    {
        _R.SET_OWNER,
        _R.SET_FEATURES,
        _R.SET_PROTOCOL_FEATURES,
        _R.SET_MEM_TABLE,
        _R.ADD_MEM_REG,
        _R.REM_MEM_REG,
        _R.SET_LOG_FD,
        _R.SET_VRING_NUM,
        _R.SET_VRING_ADDR,
        _R.SET_VRING_KICK,
        _R.SET_VRING_CALL,
        _R.SET_VRING_ERR,
        _R.SET_VRING_ENABLE,
        _R.SET_VRING_ENDIAN,
        _R.VRING_KICK,
        _R.SEND_RARP,
        _R.NET_SET_MTU,
        _R.SET_INFLIGHT_FD,
    }
)


# What to do with a message and its payload's words; a reply of its own, or None.
Answer = Callable[[Message, tuple[int, ...]], Message | None]


@dataclass(frozen=True)
class Received:
    """A message from the front-end.

    Attributes:
        request: its number, a FrontendRequest if known.
        payload: as it came, words in the host's byte order.
        fds: how many file descriptors came with it.
    """

    request: int
    payload: bytes
    fds: int

    @property
    def words(self) -> tuple[int, ...]:
        """Values of the payload's words, in the order of vhost-user.rst.

        Raises:
            ProtocolError: the message was malformed.
        """
        return layout.words(self.request, self.payload)


class Backend:
    """A back-end for one device, listening from the constructor until close().

    It serves no rings. It takes one connection at a time and any number in turn, and a
    front-end may begin its handshake anew on a connection, as QEMU does after a failed
    plug. A request that it doesn't know ends the connection; `error` says why.

    Use as a context manager: leaving it unlinks the socket, joins the thread and closes
    every file descriptor.

    Args:
        path: the Unix socket to listen on.
        features: virtio feature bits offered, with VHOST_USER_PROTOCOL_FEATURES (30).
            May be assigned later; what GET_FEATURES next answers.
        protocol_features: mask of ProtocolFeature bits offered; likewise.
        queues: the answer to GET_QUEUE_NUM.
        config: device configuration space, in the device's byte order; a longer
            read gets zeros after it.
    Raises:
        QapError: the socket can't be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        features: int,
        protocol_features: int = DEFAULT_PROTOCOL_FEATURES,
        queues: int = 8,
        config: bytes = b"",
    ) -> None:
        self.path = path
        self.features = features
        self.protocol_features = protocol_features
        self.queues = queues
        self._config = bytearray(config)
        self._status = 0
        self._vring_bases: dict[int, int] = {}
        self._kept: dict[int, list[int]] = {}
        self._news = threading.Condition()
        self._received: list[Received] = []
        self._answers: dict[int, Answer] = {
            _R.GET_FEATURES: lambda asked, _: _u64(asked, self.features),
            _R.GET_PROTOCOL_FEATURES: lambda asked, _: _u64(asked, self.protocol_features),
            _R.GET_QUEUE_NUM: lambda asked, _: _u64(asked, self.queues),
            _R.GET_MAX_MEM_SLOTS: lambda asked, _: _u64(asked, MEM_SLOTS),
            _R.GET_STATUS: lambda asked, _: _u64(asked, self._status),
            _R.SET_STATUS: self._set_status,
            _R.RESET_DEVICE: self._reset,
            _R.RESET_OWNER: self._reset,
            _R.GET_CONFIG: self._get_config,
            _R.SET_CONFIG: self._set_config,
            _R.SET_VRING_BASE: self._set_vring_base,
            _R.GET_VRING_BASE: self._get_vring_base,
            _R.SET_BACKEND_REQ_FD: self._keep,
            _R.GPU_SET_SOCKET: self._keep,
            _R.IOTLB_MSG: lambda asked, _: _u64(asked, 0),
            _R.GET_INFLIGHT_FD: self._get_inflight_fd,
            _R.SET_LOG_BASE: self._set_log_base,
        }
        self._server = Server(path, self._serve, "vhost-user back-end")

    @property
    def error(self) -> Exception | None:
        """What ended the latest connection (Disconnected if the front-end just left it)."""
        return self._server.error

    @property
    def received(self) -> list[Received]:
        """Every message so far, over all connections, oldest first."""
        with self._news:
            return list(self._received)

    def requests(self, request: FrontendRequest) -> list[Received]:
        """Every message of one kind so far, oldest first."""
        return [message for message in self.received if message.request == request]

    @property
    def acked_features(self) -> int | None:
        """Virtio features of the latest SET_FEATURES, or None if there was none."""
        return self._latest_u64(_R.SET_FEATURES)

    @property
    def acked_protocol_features(self) -> int | None:
        """Mask of the latest SET_PROTOCOL_FEATURES, or None if there was none."""
        return self._latest_u64(_R.SET_PROTOCOL_FEATURES)

    def wait_for(self, request: FrontendRequest, timeout: float, *, since: int = 0) -> Received:
        """The first message of a kind, once it is there.

        Args:
            timeout: in seconds.
            since: how many messages of `received` to pass over.
        Raises:
            TimeoutError: none came; says what was waited for, and what came last.
        """

        def found() -> Received | None:
            later = self._received[since:]
            return next((message for message in later if message.request == request), None)

        with self._news:
            message = self._news.wait_for(found, timeout)
            if message is None:
                last = self._received[-1].request if self._received else None
                seen = "nothing yet" if last is None else f"{request_name(last)} last"
                raise TimeoutError(
                    f"waited {timeout:g} s for {request.name} at {self.path}: {seen}"
                    + (f"; {self.error}" if self.error else "")
                )
            return message

    def hang_up(self) -> None:
        """Close the front-end's connection, if there is one, and go on listening."""
        self._server.hang_up()

    def close(self) -> None:
        """End the back-end; safe to repeat."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, sock: socket.socket) -> None:
        channel = Channel(sock, "the front-end")
        try:
            while True:
                with channel.receive() as message:
                    self._record(message)
                    reply = self._handle(message)
                    if reply:
                        with reply:
                            channel.send(reply)
        finally:
            for fds in self._kept.values():
                close_fds(fds)
            self._kept.clear()

    def _record(self, message: Message) -> None:
        with self._news:
            self._received.append(Received(message.request, message.payload, len(message.fds)))
            self._news.notify_all()

    def _handle(self, message: Message) -> Message | None:
        if message.is_reply:
            raise ProtocolError(f"the front-end sent {request_name(message.request)} as a reply")
        words = layout.words(message.request, message.payload)
        answer = self._answers.get(message.request)
        if answer is None and message.request not in _NOTED:
            raise ProtocolError(f"this back-end doesn't serve {request_name(message.request)}")
        reply = answer(message, words) if answer else None
        if reply is None and message.needs_reply:
            return _u64(message, 0)
        return reply

    def _set_status(self, _: Message, words: tuple[int, ...]) -> None:
        (self._status,) = words

    def _reset(self, *_: object) -> None:
        self._status = 0

    def _get_config(self, asked: Message, words: tuple[int, ...]) -> Message:
        offset, size, flags = words
        _check_region(asked, size)
        region = bytes(self._config[offset : offset + size]).ljust(size, b"\0")
        return asked.reply(struct.pack("=III", offset, size, flags) + region)

    def _set_config(self, asked: Message, words: tuple[int, ...]) -> None:
        offset, size, _ = words
        _check_region(asked, size)
        self._config.extend(bytes(max(0, offset + size - len(self._config))))
        self._config[offset : offset + size] = asked.payload[CONFIG_HEAD:]

    def _set_vring_base(self, _: Message, words: tuple[int, ...]) -> None:
        index, base = words
        self._vring_bases[index] = base

    def _get_vring_base(self, asked: Message, words: tuple[int, ...]) -> Message:
        index, _ = words
        return asked.reply(struct.pack("=II", index, self._vring_bases.get(index, 0)))

    def _keep(self, asked: Message, _: tuple[int, ...]) -> None:
        # A socket: QEMU reports an error when its other end closes.
        close_fds(self._kept.pop(asked.request, ()))
        self._kept[asked.request] = asked.take_fds()

    def _set_log_base(self, asked: Message, _: tuple[int, ...]) -> Message | None:
        acked = self.acked_protocol_features or 0
        return asked.reply() if acked >> ProtocolFeature.LOG_SHMFD & 1 else None

    def _get_inflight_fd(self, asked: Message, words: tuple[int, ...]) -> Message:
        queues, entries = words[2:]
        # Room for QueueRegionPacked, the larger of the two formats, rounded up.
        size = queues * (64 + 32 * entries)
        reply = asked.reply(struct.pack("=QQHHI", size, 0, queues, entries, 0))
        reply.fds.append(os.memfd_create("inflight"))
        try:
            os.ftruncate(reply.fds[0], size)
        except BaseException:
            reply.close()
            raise
        return reply

    def _latest_u64(self, request: FrontendRequest) -> int | None:
        latest = self.requests(request)
        return latest[-1].words[0] if latest else None


def _u64(asked: Message, value: int) -> Message:
    return asked.reply(struct.pack("=Q", value))


def _check_region(asked: Message, size: int) -> None:
    region = len(asked.payload) - CONFIG_HEAD
    if region != size:
        raise ProtocolError(
            f"{request_name(asked.request)} announces {size} bytes and carries {region}"
        )
