"""A Unix socket with a thread that serves it, one connection at a time."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qap.host.errors import QapError

JOIN_S = 5.0


class Server:
    """Accepts one connection after the other and passes each to `serve` until that returns.

    A connection that comes while another is served waits in the listen queue.

    Args:
        path: where to listen; must not exist. The server listens when the constructor
            returns.
        serve: called with each connection in the server's thread. The connection ends
            when it returns or raises; `error` keeps the exception.
        name: of this server, for its thread and error messages.
        orderly: exceptions that are a normal end of a connection.
    Raises:
        QapError: the socket can't be made there.

    Attributes:
        failures: all other exceptions that ended a connection, oldest first.
    """

    def __init__(
        self,
        path: Path,
        serve: Callable[[socket.socket], None],
        name: str,
        orderly: tuple[type[Exception], ...] = (),
    ) -> None:
        self.path = path
        self._serve = serve
        self._name = name
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._closed = False
        self._error: Exception | None = None
        self._orderly = orderly
        self.failures: list[Exception] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(path))
            self._listener.listen()
        except OSError as exc:
            self._listener.close()
            raise QapError(f"{name} can't listen on {path}: {exc.strerror or exc}") from exc
        self._thread = threading.Thread(target=self._run, name=f"{name} {path}", daemon=True)
        self._thread.start()

    @property
    def error(self) -> Exception | None:
        """What ended the latest connection, or None while it lasts and after close()."""
        with self._lock:
            return self._error

    @contextmanager
    def holding(self, sock: socket.socket) -> Iterator[None]:
        """Inside this context, close() and hang_up() shut `sock` down; any wait on it then ends."""
        with self._lock:
            self._held.append(sock)
            if self._closed:
                _shut_down(sock)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(sock)

    def hang_up(self) -> None:
        """End the connection that is being served, if any; the server goes on listening."""
        with self._lock:
            for sock in self._held:
                _shut_down(sock)

    def close(self) -> None:
        """End connection, thread and socket; returns once they are gone. Safe to repeat."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            _shut_down(self._listener)
            for sock in self._held:
                _shut_down(sock)
        self._thread.join(JOIN_S)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        if self._thread.is_alive():
            raise QapError(f"{self._name} on {self.path} did not end within {JOIN_S:g} s")

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError as exc:
                self._note(exc)
                return
            self._note(None)
            with peer, self.holding(peer):
                try:
                    self._serve(peer)
                except Exception as exc:
                    # Whatever it was, the thread goes on with the next connection.
                    self._note(exc)
                    if not isinstance(exc, self._orderly):
                        self.failures.append(exc)

    def _note(self, error: Exception | None) -> None:
        with self._lock:
            if not self._closed:
                self._error = error


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
