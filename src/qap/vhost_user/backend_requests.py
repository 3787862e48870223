"""The back-end's own requests to its front-end, sent from a test."""

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from uuid import UUID

from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.connection import Connection
from qap.vhost_user.device import Device
from qap.vhost_user.memory.iotlb import IOTLB_MSG, IotlbType, Permission
from qap.vhost_user.protocol import BackendRequest

VRING_STATE = struct.Struct("=II")
VRING_AREA = struct.Struct("=QQQ")
VRING_NO_FD = 1 << 8

_B = BackendRequest
T = TypeVar("T")


class FrontEnd:
    """The requests of vhost-user.rst, "Back-end message types", for any thread.

    With REPLY_ACK each waits for the front-end's reply and returns its u64, 0 for success;
    without, it returns None. All may raise:

    * NoAnswer: there is no connection, no back-end channel or no reply.
    * Disconnected: the connection ended meanwhile.

    Args:
        submit: runs a job in a connection's thread; raises NoAnswer if there is none.
        device: its `patience` says how long to wait; `run` waits twice as long, as the
            connection's thread may be waiting itself.
    """

    def __init__(
        self, submit: Callable[[Callable[[Connection], Any]], "Future[Any]"], device: Device
    ) -> None:
        self._submit = submit
        self._device = device

    def run(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in the connection's thread, between two messages; returns its result."""
        patience = 2 * self._device.patience
        try:
            answer: T = self._submit(job).result(patience)
        except TimeoutError:
            raise NoAnswer(f"waited {patience:g} s for the back-end's thread") from None
        return answer

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int | None:
        """Send any request; `fds` stay the caller's."""
        return self.run(lambda connection: connection.ask(request, payload, fds))

    def iotlb_miss(self, iova: int, permission: Permission) -> int | None:
        """Ask for a translation."""
        return self.ask(_B.IOTLB_MSG, IOTLB_MSG.pack(iova, 0, 0, permission, IotlbType.MISS))

    def iotlb_access_fail(self, iova: int, permission: Permission) -> int | None:
        """Report an access that the IOTLB doesn't allow."""
        return self.ask(_B.IOTLB_MSG, IOTLB_MSG.pack(iova, 0, 0, permission, IotlbType.ACCESS_FAIL))

    def config_change(self) -> int | None:
        """Say that the configuration space has changed."""
        return self.ask(_B.CONFIG_CHANGE_MSG)

    def vring_host_notifier(self, queue: int, fd: int | None, size: int, offset: int) -> int | None:
        """Offer a page of `fd` for the queue's notifications, or None to take it back."""
        if fd is None:
            return self.ask(_B.VRING_HOST_NOTIFIER_MSG, VRING_AREA.pack(queue | VRING_NO_FD, 0, 0))
        area = VRING_AREA.pack(queue, size, offset)
        return self.ask(_B.VRING_HOST_NOTIFIER_MSG, area, [fd])

    def vring_call(self, queue: int) -> int | None:
        """Say in-band that buffers were used."""
        return self.ask(_B.VRING_CALL, VRING_STATE.pack(queue, 0))

    def vring_err(self, queue: int) -> int | None:
        """Report an error of a ring in-band."""
        return self.ask(_B.VRING_ERR, VRING_STATE.pack(queue, 0))

    def shared_object_add(self, uuid: UUID) -> int | None:
        """Announce a shared object."""
        return self.ask(_B.SHARED_OBJECT_ADD, uuid.bytes)

    def shared_object_remove(self, uuid: UUID) -> int | None:
        """Withdraw a shared object."""
        return self.ask(_B.SHARED_OBJECT_REMOVE, uuid.bytes)

    def shared_object_lookup(self, uuid: UUID) -> int | None:
        """Ask for an object; a file descriptor that comes with the reply is closed."""
        return self.ask(_B.SHARED_OBJECT_LOOKUP, uuid.bytes)
