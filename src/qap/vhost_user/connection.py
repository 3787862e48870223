"""One connection of a front-end: its messages, its kicks, and requests to it."""

import math
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self

from qap.host.errors import QapError
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.device import Device
from qap.vhost_user.handler import Acked
from qap.vhost_user.memory.driver_memory import DriverMemory
from qap.vhost_user.memory.iotlb import IOTLB_MSG, IotlbType
from qap.vhost_user.memory.mem_table import BadAddress
from qap.vhost_user.misbehave import Rules
from qap.vhost_user.protocol import (
    BackendRequest,
    Channel,
    Disconnected,
    ProtocolFeature,
    request_name,
)
from qap.vhost_user.ring.server import RingServer
from qap.vhost_user.ring.vring import Vring
from qap.vhost_user.ring.vring_table import VringTable
from qap.vhost_user.session import Session

POLLED_RING_MS = 1
VRING_STATE = struct.Struct("=II")
U64 = struct.Struct("=Q")


class HungUp(QapError):
    """The back-end closed the connection because of a rule of qap.vhost_user.misbehave."""


class Connection:
    """Serves a front-end until it leaves or breaks the protocol.

    Everything happens in the thread that calls `run`, except `submit`. While the back-end
    waits for the answer to its own request, it goes on handling messages: the front-end
    may need a reply before it can answer.

    Use as a context manager around `run`: leaving it releases memory and file descriptors
    that came from the front-end.

    Args:
        sock: the connection; the caller keeps owning it.
        device: the device that is served.
    """

    def __init__(self, sock: socket.socket, device: Device) -> None:
        device.connections += 1
        self._device = device
        self._channel = Channel(sock, "the front-end")
        self._socket = sock.fileno()
        self._rules = Rules(lambda: device.misbehaviour, device.connections)
        acked = Acked()
        memory = DriverMemory(acked, device.records.touch, self._miss)
        self._session = Session(device, self._rules, acked, memory, VringTable(acked, self))
        self._rings = RingServer(self._session, device, self._rules, self._call)
        self._jobs: deque[tuple[Callable[[Connection], Any], Future[Any]]] = deque()
        self._watched: set[int] = set()
        self._new_watch = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def run(self) -> None:
        """Serve until the connection ends.

        Raises:
            Disconnected: the front-end left.
            ProtocolError: it broke the protocol.
            HungUp: a rule closed the connection.
        """
        if self._rules.is_mute:
            self._wait_for_the_end()
        while True:
            ready = self._wait()
            self._take_kicks(ready)
            self._rings.serve()
            if self._wake in ready:
                self._work()

    def _wait(self) -> set[int]:
        """Handle every message, then return the eventfds that were ready."""
        seen = ready = self._ready(self._poll_ms())
        while self._socket in ready:
            self._new_watch = False
            self._handle_messages()
            if len(seen) == 1 and not self._new_watch:
                break
            ready = self._ready(0)
            if self._new_watch:
                seen |= ready
        return seen

    def _ready(self, timeout_ms: int | None) -> set[int]:
        return {fd for fd, _ in self._poll.poll(timeout_ms)}

    def _take_kicks(self, ready: set[int]) -> None:
        for vring in self._session.vrings:
            if vring.polled or (vring.kick in ready and vring.clear_kick()):
                vring.start()

    def _poll_ms(self) -> int | None:
        """Poll timeout in milliseconds; None to wait without a limit."""
        vrings = list(self._session.vrings)
        due_in = [again for vring in vrings if (again := vring.due_in_s) is not None]
        waits = [math.ceil(again * 1000) for again in due_in]
        waits += [POLLED_RING_MS for vring in vrings if vring.polled]
        return min(waits, default=None)

    def _wait_for_the_end(self) -> None:
        poll = select.poll()
        poll.register(self._socket, 0)
        poll.poll()
        raise Disconnected("the front-end left a back-end that never answered")

    def _handle_messages(self) -> None:
        """Handle every message that has arrived, at least one."""
        while True:
            with self._channel.receive() as message:
                self._device.records.add_received(message)
                if self._rules.hangs_up(message.request):
                    raise HungUp(f"the back-end hung up at {request_name(message.request)}")
                reply = self._session.handle(message)
                if reply:
                    with reply:
                        sent = self._rules.reply(reply)
                        if sent:
                            self._channel.send(sent)
            if not self._channel.pending:
                return

    def watch(self, vring: Vring) -> None:
        """See `vring_table.Watch`."""
        if vring.kick is not None:
            self._watched.add(vring.kick)
            self._new_watch = True
            self._poll.register(vring.kick, select.POLLIN)

    def unwatch(self, vring: Vring) -> None:
        """See `vring_table.Watch`."""
        if vring.kick in self._watched:
            self._poll.unregister(vring.kick)
            self._watched.remove(vring.kick)

    def submit(self, job: Callable[["Connection"], Any]) -> "Future[Any]":
        """Have `run` call a function after all earlier work; from any thread.

        Must not be called after `close`.
        """
        future: Future[Any] = Future()
        self._jobs.append((job, future))
        os.eventfd_write(self._wake, 1)
        return future

    def _work(self) -> None:
        os.eventfd_read(self._wake)
        while self._jobs:
            job, future = self._jobs.popleft()
            try:
                future.set_result(job(self))
            except NoAnswer as exc:
                future.set_exception(exc)
            except BaseException as exc:
                future.set_exception(exc)
                raise

    def wake(self) -> None:
        """Have chains that wait served again; only for the thread of `run`."""
        for vring in self._session.vrings:
            vring.wake()

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int | None:
        """Send a request on the back-end channel; only for the thread of `run`.

        Args:
            request: a BackendRequest, or another number to misbehave.
            fds: stay the caller's.
        Returns:
            the u64 of the reply, 0 for success; None without REPLY_ACK, as there is no reply.
        Raises:
            NoAnswer: there is no channel, or no reply came.
        """
        channel = self._session.backend_channel
        name = request_name(request, BackendRequest)
        if channel is None:
            raise NoAnswer(f"no back-end channel for {name}: SET_BACKEND_REQ_FD never came")
        acked = self._session.acked.has_protocol(ProtocolFeature.REPLY_ACK)
        channel.send(request, payload, fds, need_reply=acked)
        if not acked:
            return None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(channel, select.POLLIN)
        deadline = time.monotonic() + self._device.patience
        while True:
            ready = {fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
            if not ready:
                channel.give_up()
                raise NoAnswer(f"waited {self._device.patience:g} s for the reply to {name}")
            # Messages first: they were sent before the reply.
            if self._socket in ready:
                self._handle_messages()
                if self._session.backend_channel is not channel:
                    raise NoAnswer(f"the front-end replaced the channel of {name}")
            if channel.fileno() in ready and (reply := channel.reply(request)):
                (said,) = U64.unpack_from(reply.payload.ljust(U64.size, b"\0"))
                return int(said)

    def in_flight(self, queue: int) -> list[int]:
        """Ids of a queue's chains in the inflight buffer; only for the thread of `run`."""
        inflight = self._session.inflight
        return inflight.in_flight(queue) if inflight else []

    def _miss(self, iova: int, permission: int) -> None:
        """Ask the front-end for a translation and wait for it."""
        payload = IOTLB_MSG.pack(iova, 0, 0, permission, IotlbType.MISS)
        try:
            if self.ask(BackendRequest.IOTLB_MSG, payload) is None:
                self._wait_for_entry(iova, permission)
        except NoAnswer as exc:
            self._rings.check()
            raise BadAddress(f"IOVA {iova:#x} was not translated: {exc}") from exc
        self._rings.check()

    def _wait_for_entry(self, iova: int, permission: int) -> None:
        """Wait for the entry or an invalidation: without REPLY_ACK no reply comes."""
        iotlb = self._session.memory.iotlb
        invalidations = iotlb.invalidations
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        deadline = time.monotonic() + self._device.patience
        while iotlb.find(iova, permission) is None and iotlb.invalidations == invalidations:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise NoAnswer(f"waited {self._device.patience:g} s for its IOTLB entry")
            self._handle_messages()
            self._rings.check()

    def _call(self, vring: Vring) -> None:
        """Send an in-band call if that was negotiated; otherwise the driver polls."""
        if self._session.acked.has_protocol(ProtocolFeature.INBAND_NOTIFICATIONS):
            try:
                self.ask(BackendRequest.VRING_CALL, VRING_STATE.pack(vring.index, 0))
            except NoAnswer as exc:
                raise BadAddress(str(exc)) from exc

    def close(self) -> None:
        """Release everything; jobs of `submit` that have not run fail with Disconnected."""
        self._session.close()
        self._channel.close()
        os.close(self._wake)
        while self._jobs:
            self._jobs.popleft()[1].set_exception(Disconnected("the front-end's connection ended"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
