"""A vhost-user back-end in Python: it serves any device type, and remembers everything."""

import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from qap.host.errors import QapError
from qap.oracle.features import mask
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.backend_requests import FrontEnd
from qap.vhost_user.chain_service import ChainService, Served, fill
from qap.vhost_user.connection import Connection, HungUp
from qap.vhost_user.device import Device
from qap.vhost_user.memory.access import Touched
from qap.vhost_user.misbehave import Misbehaviour
from qap.vhost_user.protocol import Disconnected, FrontendRequest, ProtocolFeature, request_name
from qap.vhost_user.records import Received, RingError
from qap.vhost_user.server import Server

DEFAULT_PROTOCOL_FEATURES = mask(
    [
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
    ]
)
PATIENCE_S = 5.0
# The front-end left, or we did because we were told to.
ORDERLY = (Disconnected, HungUp, ConnectionError)

_R = FrontendRequest


class BackendFailed(QapError):
    """A back-end's connection ended by an error; `detail` says where."""

    def __init__(self, path: Path, failure: Exception) -> None:
        place = "".join(traceback.format_exception(failure)).rstrip()
        super().__init__(f"the back-end at {path} ended by {failure!r}", place)


class Backend:
    """A back-end for one device, listening from the constructor until close().

    It takes one connection at a time and any number in turn, and a front-end may begin its
    handshake anew on a connection, as QEMU does after a failed plug. A request that it
    doesn't know ends the connection; `error` says why. Split and packed rings are served,
    translated by the IOTLB where ACCESS_PLATFORM was acknowledged.

    Use as a context manager: leaving it unlinks the socket, joins the thread, unmaps the
    driver's memory and closes every file descriptor. It raises BackendFailed where a connection
    ended by something that nobody said to `expect`.

    Args:
        path: the Unix socket to listen on.
        features: virtio feature bits offered, with VHOST_USER_PROTOCOL_FEATURES (30).
            May be assigned later; what GET_FEATURES next answers.
        protocol_features: mask of ProtocolFeature bits offered; likewise.
        queues: the answer to GET_QUEUE_NUM.
        config: device configuration space, in the device's byte order; a longer
            read gets zeros after it.
        service: what it makes of a chain of buffers; the default fills what it may write
            with `qap.vhost_user.chain_service.pattern`.
        misbehaviour: what it does wrong; may be assigned later.
        patience: seconds to wait for an answer on the back-end channel; may be assigned
            later.
    Raises:
        QapError: the socket can't be made.

    Attributes:
        path: as given.
        front_end: requests of the back-end's own, to be made from a test's thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        features: int,
        protocol_features: int = DEFAULT_PROTOCOL_FEATURES,
        queues: int = 8,
        config: bytes = b"",
        service: ChainService = fill,
        misbehaviour: Sequence[Misbehaviour] = (),
        patience: float = PATIENCE_S,
    ) -> None:
        self.path = path
        self._device = Device(
            features,
            protocol_features,
            queues,
            bytearray(config),
            service,
            patience,
            tuple(misbehaviour),
        )
        self._records = self._device.records
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.front_end = FrontEnd(self._submit, self._device)
        self._expected: list[type[Exception]] = []
        self._server = Server(path, self._serve, "vhost-user back-end", ORDERLY)

    @property
    def features(self) -> int:
        """Virtio feature bits offered."""
        return self._device.features

    @features.setter
    def features(self, features: int) -> None:
        self._device.features = features

    @property
    def protocol_features(self) -> int:
        """Mask of ProtocolFeature bits offered."""
        return self._device.protocol_features

    @protocol_features.setter
    def protocol_features(self, features: int) -> None:
        self._device.protocol_features = features

    @property
    def queues(self) -> int:
        """The answer to GET_QUEUE_NUM."""
        return self._device.queues

    @queues.setter
    def queues(self, queues: int) -> None:
        self._device.queues = queues

    @property
    def service(self) -> ChainService:
        """What it makes of a chain; may be assigned."""
        return self._device.service

    @service.setter
    def service(self, service: ChainService) -> None:
        self._device.service = service

    @property
    def misbehaviour(self) -> Sequence[Misbehaviour]:
        """What it does wrong, from the next message on; may be assigned."""
        return self._device.misbehaviour

    @misbehaviour.setter
    def misbehaviour(self, rules: Sequence[Misbehaviour]) -> None:
        self._device.misbehaviour = tuple(rules)

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer on the back-end channel."""
        return self._device.patience

    @patience.setter
    def patience(self, patience: float) -> None:
        self._device.patience = patience

    @property
    def config(self) -> bytes:
        """Device configuration space, with what the driver wrote (SET_CONFIG)."""
        return bytes(self._device.config)

    def change_config(self, config: bytes) -> int | None:
        """Replace the configuration space and tell the front-end; see `FrontEnd`."""
        self._device.config = bytearray(config)
        return self.front_end.config_change()

    @property
    def status(self) -> int:
        """Of the latest SET_STATUS."""
        return self._device.status

    @property
    def connections(self) -> int:
        """How many there were, with the present one."""
        return self._device.connections

    @property
    def error(self) -> Exception | None:
        """What ended the latest connection (Disconnected if the front-end just left it)."""
        return self._server.error

    def expect(self, *errors: type[Exception]) -> None:
        """Connections may end by these, too, and it is no failure."""
        self._expected += errors

    def failed(self) -> "BackendFailed | None":
        """The first failure that was not to be expected."""
        for failure in self._server.failures:
            if not isinstance(failure, tuple(self._expected)):
                return BackendFailed(self.path, failure)
        return None

    @property
    def received(self) -> list[Received]:
        """Every message so far, over all connections, oldest first."""
        return self._records.received

    @property
    def touched(self) -> list[Touched]:
        """Every access to the driver's memory so far, oldest first."""
        return self._records.touched

    @property
    def served(self) -> list[Served]:
        """Every chain served so far, oldest first."""
        return self._records.served

    @property
    def ring_errors(self) -> list[RingError]:
        """Why chains could not be served so far, oldest first."""
        return self._records.errors

    def forget(self) -> None:
        """Begin anew with empty `received`, `touched`, `served` and `ring_errors`.

        What the front-end has set up stays.
        """
        self._records.forget()

    def settle(self) -> None:
        """Wait until messages and kicks that came before are dealt with.

        Raises:
            NoAnswer: there is no connection, or its thread is busy for too long.
            Disconnected: the connection ended meanwhile.
        """
        self.front_end.run(lambda _: None)

    def in_flight(self, queue: int) -> list[int]:
        """Ids of the chains that the buffer of SET_INFLIGHT_FD notes as in flight.

        Raises as `settle` does.
        """
        return self.front_end.run(lambda connection: connection.in_flight(queue))

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
            later = self.received[since:]
            return next((message for message in later if message.request == request), None)

        message = self._records.wait(found, timeout)
        if message is None:
            received = self.received
            seen = f"{request_name(received[-1].request)} last" if received else "nothing yet"
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

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        self.close()
        failed = self.failed()
        if failed and value is None:
            raise failed
        if failed and value:
            value.add_note(str(failed))

    def _serve(self, sock: socket.socket) -> None:
        with Connection(sock, self._device) as connection:
            try:
                with self._lock:
                    self._connection = connection
                connection.run()
            finally:
                with self._lock:
                    self._connection = None

    def _submit(self, job: Callable[[Connection], Any]) -> "Future[Any]":
        with self._lock:
            if self._connection is None:
                raise NoAnswer(f"no front-end is connected to {self.path}")
            return self._connection.submit(job)

    def _latest_u64(self, request: FrontendRequest) -> int | None:
        latest = self.requests(request)
        return latest[-1].words[0] if latest else None
