"""A vhost-user back-end in Python that serves any device type and records everything."""

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
from qap.vhost_user.chain_service import ChainService, fill
from qap.vhost_user.connection import Connection, HungUp
from qap.vhost_user.device import Device
from qap.vhost_user.misbehave import Misbehaviour
from qap.vhost_user.protocol import Disconnected, ProtocolFeature
from qap.vhost_user.recorded_backend import RecordedBackend
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
# The front-end left, or a rule of `misbehaviour` made the back-end leave.
ORDERLY = (Disconnected, HungUp, ConnectionError)


class BackendFailed(QapError):
    """A back-end's connection ended with an error; `detail` has the traceback."""

    def __init__(self, path: Path, failure: Exception) -> None:
        place = "".join(traceback.format_exception(failure)).rstrip()
        super().__init__(f"the back-end at {path} ended by {failure!r}", place)


class Backend(RecordedBackend):
    """A back-end for one device, listening from the constructor until close().

    It serves one connection at a time and any number in turn. A front-end may start its
    handshake again on the same connection, as QEMU does after a failed plug. An unknown
    request ends the connection; `error` says why. Split and packed rings are served.
    Addresses are translated by the IOTLB if ACCESS_PLATFORM was acknowledged.

    Use as a context manager: leaving it unlinks the socket, joins the thread, unmaps the
    driver's memory and closes every file descriptor. It raises BackendFailed if a connection
    ended with an error that was not announced with `expect`.

    Args:
        path: the Unix socket to listen on.
        features: virtio feature bits offered, with VHOST_USER_PROTOCOL_FEATURES (30).
            May be assigned later, for the next GET_FEATURES.
        protocol_features: mask of ProtocolFeature bits offered; may be assigned later.
        queues: the answer to GET_QUEUE_NUM.
        config: device configuration space, in the device's byte order; a longer
            read gets zeros after it.
        service: serves a chain of buffers; the default fills the writable buffers with
            `qap.vhost_user.chain_service.pattern`.
        misbehaviour: what it does wrong; may be assigned later.
        patience: seconds to wait for an answer on the back-end channel; may be assigned
            later.
    Raises:
        QapError: the socket can't be made.

    Attributes:
        path: as given.
        front_end: sends the back-end's own requests; for a test's thread.
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
        device = Device(
            features,
            protocol_features,
            queues,
            bytearray(config),
            service,
            patience,
            tuple(misbehaviour),
        )
        super().__init__(path, device.records)
        self._device = device
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
        """Serves a chain; may be assigned."""
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
    def selects(self) -> Callable[[bytes], bytes]:
        """What the configuration space becomes once the driver has written to it; may be
        assigned."""
        return self._device.selects

    @selects.setter
    def selects(self, selects: Callable[[bytes], bytes]) -> None:
        self._device.selects = selects

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
        """The status of the latest SET_STATUS."""
        return self._device.status

    @property
    def connections(self) -> int:
        """How many connections there were so far, with the present one."""
        return self._device.connections

    @property
    def error(self) -> Exception | None:
        """What ended the latest connection (Disconnected if the front-end just left it)."""
        return self._server.error

    def expect(self, *errors: type[Exception]) -> None:
        """Also accept these as the end of a connection: they are no failure."""
        self._expected += errors

    def failed(self) -> "BackendFailed | None":
        """The first failure that was not announced with `expect`, or None."""
        for failure in self._server.failures:
            if not isinstance(failure, tuple(self._expected)):
                return BackendFailed(self.path, failure)
        return None

    def settle(self) -> None:
        """Wait until all earlier messages and kicks are handled.

        Raises:
            NoAnswer: there is no connection, or its thread is busy for too long.
            Disconnected: the connection ended meanwhile.
        """
        self.front_end.run(lambda _: None)

    def wake(self) -> None:
        """Have the chains that the service left served again.

        Returns once the service was called for them; raises as `settle` does.
        """
        self.front_end.run(lambda connection: connection.wake())
        self.settle()

    def in_flight(self, queue: int) -> list[int]:
        """Ids of the chains that the buffer of SET_INFLIGHT_FD notes as in flight.

        Raises as `settle` does.
        """
        return self.front_end.run(lambda connection: connection.in_flight(queue))

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
