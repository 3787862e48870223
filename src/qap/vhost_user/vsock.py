"""A host for vhost-user-vsock: its port reads everything, then answers (virtio 1.3, 5.10)."""

from collections import deque

from qap.vhost_user.chain_service import LATER, Later
from qap.virtio.vsock import BUF_ALLOC, HEADER, HOST_CID, RX, TX, U32, Op, Packet, Shutdown


class VsockHost:
    """A `ChainService` for streams: the guest connects, sends, shuts down, and is answered.

    One connection at a time; a connection to another port is reset.

    Args:
        port: where it listens, on CID 2.
        data: the answer that is sent after the guest has shut down sending.

    Attributes:
        heard: what the guest has sent over the last connection.
    """

    def __init__(self, port: int, data: bytes) -> None:
        self.port = port
        self.data = data
        self.heard = bytearray()
        self._queued: deque[Packet] = deque()
        self._peer: tuple[int, int] | None = None
        self._told = 0
        self._sent = 0
        self._answering = False
        self._peer_alloc = 0
        self._peer_read = 0

    def __call__(self, queue: int, readable: bytes, room: int) -> bytes | Later:
        """See `ChainService`."""
        if queue == TX:
            self._take(Packet.unpack(readable))
            return b""
        if queue == RX:
            packet = self._next(room - HEADER.size)
            return packet.pack() if packet else LATER
        return LATER

    def _take(self, packet: Packet) -> None:
        if packet.op == Op.REQUEST and packet.dst == (HOST_CID, self.port):
            self._peer = packet.src
            self.heard.clear()
            self._told = self._sent = 0
            self._answering = False
            self._queue(Op.RESPONSE)
        elif packet.src != self._peer:
            if packet.op != Op.RST:
                self._queued.append(Packet(packet.dst, packet.src, Op.RST))
            return
        self._peer_alloc, self._peer_read = packet.buf_alloc, packet.fwd_cnt
        if packet.op == Op.RW:
            self.heard += packet.data
            if len(self.heard) - self._told >= BUF_ALLOC // 2:
                self._queue(Op.CREDIT_UPDATE)
        elif packet.op == Op.CREDIT_REQUEST:
            self._queue(Op.CREDIT_UPDATE)
        elif packet.op == Op.SHUTDOWN:
            if packet.flags & Shutdown.RECEIVE:
                self._queue(Op.RST)
                self._peer = None
            else:
                self._answering = True
        elif packet.op == Op.RST:
            self._peer = None

    def _next(self, room: int) -> Packet | None:
        """The next packet for the guest, with at most `room` bytes of data."""
        if self._queued:
            return self._queued.popleft()
        if self._peer is None or not self._answering:
            return None
        free = (self._peer_alloc - (self._sent - self._peer_read)) % U32
        piece = self.data[self._sent : self._sent + min(room, free)]
        if piece:
            self._sent += len(piece)
            return self._packet(Op.RW, data=piece)
        if self._sent < len(self.data):
            return None
        self._answering = False
        return self._packet(Op.SHUTDOWN, Shutdown.RECEIVE | Shutdown.SEND)

    def _queue(self, op: Op) -> None:
        self._queued.append(self._packet(op))

    def _packet(self, op: Op, flags: int = 0, data: bytes = b"") -> Packet:
        assert self._peer is not None
        self._told = len(self.heard)
        credit = (BUF_ALLOC, self._told % U32)
        return Packet((HOST_CID, self.port), self._peer, op, flags, *credit, data)
