"""A relay between QEMU and a vhost-user back-end that runs in the other byte order."""

import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from qap.host.errors import Exit, QapError
from qap.oracle.features import mask
from qap.vhost_user import layout
from qap.vhost_user.protocol import (
    ByteOrder,
    Channel,
    Disconnected,
    FrontendRequest,
    Message,
    ProtocolError,
    ProtocolFeature,
    request_name,
)
from qap.vhost_user.server import Server

CONNECT_S = 5.0
FOREIGN: ByteOrder = ">" if sys.byteorder == "little" else "<"

# Protocol features that the relay can't carry, so that QEMU is not told of them.
# BACKEND_REQ opens a second connection, which does not go through the relay: nobody would
# swap its messages. BACKEND_SEND_FD, HOST_NOTIFIER, INBAND_NOTIFICATIONS and SHARED_OBJECT
# use that connection. The others have payloads that qap.vhost_user.layout doesn't list.
HIDDEN = mask(
    [
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.BACKEND_SEND_FD,
        ProtocolFeature.HOST_NOTIFIER,
        ProtocolFeature.INBAND_NOTIFICATIONS,
        ProtocolFeature.SHARED_OBJECT,
        ProtocolFeature.CRYPTO_SESSION,
        ProtocolFeature.PAGEFAULT,
        ProtocolFeature.XEN_MMAP,
    ]
)


class ByteOrderRelay:
    """Swaps the words of headers and payloads between two byte orders.

    vhost-user uses the host's byte order, but a back-end under user-mode emulation uses its
    own. The relay passes file descriptors on. It does not touch rings and buffers, which
    are in shared memory.

    It takes one connection from QEMU at a time and makes a new one to the back-end for
    each. It closes both when either side closes or sends what the relay can't translate.
    The protocol features in HIDDEN are hidden from QEMU. Without BACKEND_REQ, QEMU refuses
    a back-end that offers ACCESS_PLATFORM.

    Use as a context manager: leaving it unlinks the socket, joins the thread and closes
    every connection.

    Args:
        path: the Unix socket to listen on for QEMU.
        backend: the back-end's socket; it need not be there before QEMU connects.
    Raises:
        QapError: the socket at `path` can't be made.
    """

    def __init__(self, path: Path, backend: Path) -> None:
        self.path = path
        self.backend = backend
        self._server = Server(path, self._serve, "byte order relay")

    @property
    def error(self) -> Exception | None:
        """What ended the latest connection, or None while it lasts.

        A Disconnected names the side that closed; anything else is a failure.
        """
        return self._server.error

    def close(self) -> None:
        """End the relay; safe to repeat."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, qemu_sock: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as backend_sock:
            self._connect(backend_sock)
            with self._server.holding(backend_sock):
                qemu = Channel(qemu_sock, "QEMU")
                backend = Channel(backend_sock, "the back-end", FOREIGN)
                self._relay(qemu, backend)

    def _connect(self, sock: socket.socket) -> None:
        sock.settimeout(CONNECT_S)
        try:
            sock.connect(str(self.backend))
        except OSError as exc:
            raise Disconnected(
                f"no vhost-user back-end answers at {self.backend}: {exc.strerror or exc}"
            ) from exc
        sock.settimeout(None)

    def _relay(self, qemu: Channel, backend: Channel) -> None:
        poller = select.poll()
        for channel in (qemu, backend):
            poller.register(channel.sock, select.POLLIN)
        try:
            while True:
                for fd, _ in poller.poll():
                    if fd == qemu.sock.fileno():
                        _carry(qemu, backend, _to_backend)
                    else:
                        _carry(backend, qemu, _to_qemu)
        finally:
            qemu.close()
            backend.close()


def _carry(source: Channel, sink: Channel, translated: Callable[[Message], Message]) -> None:
    """Pass on every message that has arrived, at least one."""
    while True:
        with source.receive() as message:
            sink.send(translated(message))
        if not source.pending:
            return


def _to_backend(message: Message) -> Message:
    if message.is_reply:
        raise ProtocolError(f"QEMU sent {request_name(message.request)} as a reply")
    payload = layout.swap(message.request, message.payload, reply=False)
    return Message(message.request, payload, message.flags, message.fds)


def _to_qemu(message: Message) -> Message:
    if not message.is_reply:
        raise ProtocolError(f"the back-end sent {request_name(message.request)}, not a reply")
    payload = layout.swap(message.request, message.payload, reply=True)
    if message.request == FrontendRequest.GET_PROTOCOL_FEATURES and payload:
        (offered,) = struct.unpack("=Q", payload)
        payload = struct.pack("=Q", offered & ~HIDDEN)
    return Message(message.request, payload, message.flags, message.fds)


def main(argv: Sequence[str]) -> int:
    """Relay until SIGINT or SIGTERM; prints a line once it listens, returns the exit code."""
    if len(argv) != 2:
        usage = "python -m qap.vhost_user.relay QEMU_SOCKET BACKEND_SOCKET"
        print(f"qap: usage: {usage}", file=sys.stderr)
        return Exit.USAGE
    ends = {signal.SIGINT, signal.SIGTERM}
    # Before the relay's thread starts, which inherits the mask: only sigwait() sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with ByteOrderRelay(Path(argv[0]), Path(argv[1])) as relay:
            print(f"relaying from {relay.path} to {relay.backend}", flush=True)
            signal.sigwait(ends)
    except QapError as exc:
        print(f"qap: {exc}", file=sys.stderr)
        return exc.code
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
