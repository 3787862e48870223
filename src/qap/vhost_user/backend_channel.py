"""The socket for a back-end's own requests (vhost-user.rst, "Back-end communication")."""

import socket
from collections.abc import Sequence

from qap.host.errors import QapError
from qap.vhost_user.protocol import (
    NEED_REPLY,
    VERSION,
    BackendRequest,
    Channel,
    Message,
    request_name,
)


class NoAnswer(QapError):
    """The front-end did not answer a request on the back-end channel."""


class BackendChannel:
    """Sends requests to the front-end and takes its replies; owns the socket.

    Args:
        fd: of SET_BACKEND_REQ_FD; owned from here on.
        patience: seconds to wait if the front-end doesn't read.
    """

    def __init__(self, fd: int, patience: float) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
        self._sock.settimeout(patience)
        peer = "the front-end, on the back-end channel,"
        self._channel = Channel(self._sock, peer, requests=BackendRequest)
        self._late = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, request: int, payload: bytes, fds: Sequence[int], *, need_reply: bool) -> None:
        """Send a request; file descriptors stay the caller's.

        Raises:
            NoAnswer: it can't be sent.
        """
        flags = VERSION | NEED_REPLY if need_reply else VERSION
        try:
            self._channel.send(Message(request, payload, flags, list(fds)))
        except (QapError, OSError) as exc:
            raise NoAnswer(f"{request_name(request, BackendRequest)}: {exc}") from exc

    def give_up(self) -> None:
        """Stop waiting for the reply to the latest request; if it comes late, it is dropped."""
        self._late += 1

    def reply(self, request: int) -> Message | None:
        """Read the reply to the latest request; None if only late replies had arrived.

        Raises:
            NoAnswer: another message came, or the front-end closed the channel.
        """
        name = request_name(request, BackendRequest)
        try:
            message = self._channel.receive()
            while self._late:
                self._late -= 1
                message.close()
                if not self._channel.pending:
                    return None
                message = self._channel.receive()
        except (QapError, OSError) as exc:
            raise NoAnswer(f"{name}: {exc}") from exc
        with message:
            if message.request != request or not message.is_reply:
                said = request_name(message.request, BackendRequest)
                raise NoAnswer(f"{name} was answered with {said}, flags {message.flags:#x}")
            return message

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        self._channel.close()
        self._sock.close()
