"""A socket device's driver, for stream sockets (virtio 1.3, section 5.10)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer
from qap.virtio.receive_queue import COUNT, ReceiveQueue, take_in_page
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 19
RX = 0
TX = 1
EVENT = 2

# 5.10.4: the host's own CID.
HOST_CID = 2
# 5.10.6.2.
TYPE_STREAM = 1

# 5.10.6: src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt.
HEADER = struct.Struct("<QQIIIHHIII")
EVENT_SIZE = 4
# Bytes of data in a packet: with its header it is half a page at most.
ROOM = 2048 - HEADER.size
# The buffer size that a connection announces to its peer.
BUF_ALLOC = 8 * ROOM
U32 = 1 << 32


class Op(IntEnum):
    """op of struct virtio_vsock_hdr (5.10.6)."""

    INVALID = 0
    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shutdown(IntFlag):
    """flags of a SHUTDOWN: what its sender will do no more (5.10.6.5)."""

    RECEIVE = 1
    SEND = 2


@dataclass(frozen=True)
class Packet:
    """A packet: a header and `data`, whose length is the header's len (5.10.6).

    Attributes:
        src, dst: CID and port.
        buf_alloc, fwd_cnt: the sender's credit (5.10.6.3): bytes of its buffer, and how
            many it has read so far, modulo 2**32.
    """

    src: tuple[int, int]
    dst: tuple[int, int]
    op: Op
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0
    data: bytes = b""
    type: int = TYPE_STREAM

    def pack(self) -> bytes:
        """The packet as bytes."""
        cids, ports = zip(self.src, self.dst, strict=True)
        return (
            HEADER.pack(
                *cids,
                *ports,
                len(self.data),
                self.type,
                self.op,
                self.flags,
                self.buf_alloc,
                self.fwd_cnt,
            )
            + self.data
        )

    @classmethod
    def unpack(cls, raw: bytes) -> "Packet":
        """A packet from bytes; bytes after the data are ignored.

        Raises:
            VirtioError: the packet is incomplete, or its op is unknown.
        """
        if len(raw) < HEADER.size:
            raise VirtioError(f"a packet of {len(raw)} bytes has no whole header")
        fields = HEADER.unpack_from(raw)
        size, kind, op, flags, buf_alloc, fwd_cnt = fields[4:]
        data = raw[HEADER.size : HEADER.size + size]
        if len(data) != size or op not in set(Op):
            raise VirtioError(f"a packet with op {op} says {size} bytes and has {len(data)}")
        src, dst = (fields[0], fields[2]), (fields[1], fields[3])
        return cls(src, dst, Op(op), flags, buf_alloc, fwd_cnt, data, kind)


class ConnectionReset(VirtioError):
    """The peer sent RST (5.10.6.5)."""


class Vsock:
    """A socket device whose features are negotiated; sets DRIVER_OK.

    Args:
        buffers: number of receive buffers; see `ReceiveQueue`.
    """

    def __init__(self, driver: Driver, buffers: int = COUNT) -> None:
        self.driver = driver
        self._rx = ReceiveQueue(driver, RX, HEADER.size + ROOM, count=buffers)
        self.tx = driver.queue(TX)
        self._events = ReceiveQueue(driver, EVENT, EVENT_SIZE)
        self._sent = take_in_page(driver.memory, HEADER.size + ROOM)
        driver.start()
        self._rx.open()
        self._events.open()

    @property
    def guest_cid(self) -> int:
        """This guest's CID (5.10.4)."""
        return int.from_bytes(self.driver.transport.config_read(0, 8), "little")

    def send(self, packet: Packet, timeout: float = SERVED_S) -> None:
        """Send a packet with at most ROOM bytes of data, without regard to the peer's credit.

        Raises:
            TimeoutError: the device did not take it.
        """
        raw = packet.pack()
        self.driver.memory.write(self._sent, raw)
        self.driver.serve(self.tx, [Buffer(self._sent, len(raw))], timeout)

    def receive(self, timeout: float = SERVED_S, wanted: str = "a packet") -> Packet:
        """The next packet.

        Raises:
            TimeoutError: none came; the text has `wanted`.
            VirtioError: it is malformed.
        """
        return Packet.unpack(self._rx.take(wanted, timeout))

    def connect(
        self, port: int, *, local: int, cid: int = HOST_CID, timeout: float = SERVED_S
    ) -> "VsockStream":
        """Ask for a connection from the port `local` and wait until it is established.

        Raises:
            ConnectionReset: nobody listens on that port.
            TimeoutError: no answer came.
            VirtioError: the answer is neither RESPONSE nor RST.
        """
        connection = VsockStream(self, (self.guest_cid, local), (cid, port))
        connection.request(timeout)
        return connection


class VsockStream:
    """A stream to a peer; a device must have only one at a time.

    Attributes:
        local, remote: CID and port.
    """

    def __init__(self, vsock: Vsock, local: tuple[int, int], remote: tuple[int, int]) -> None:
        self.local = local
        self.remote = remote
        self._vsock = vsock
        self._unread = b""
        self._received = 0
        self._told = 0
        self._sent = 0
        self._peer_alloc = 0
        self._peer_read = 0
        self._ended = False

    @property
    def peer_free(self) -> int:
        """Bytes that the peer has room for (5.10.6.3)."""
        return (self._peer_alloc - (self._sent - self._peer_read)) % U32

    def request(self, timeout: float) -> None:
        """The handshake of `Vsock.connect`."""
        self._send(Op.REQUEST, timeout=timeout)
        answer = self._take(f"{Op.RESPONSE.name} from {self.remote}", timeout)
        if answer.op != Op.RESPONSE:
            raise VirtioError(f"{answer.op.name} came as an answer to REQUEST")

    def send(self, data: bytes, timeout: float = SERVED_S) -> None:
        """Send data in packets of up to ROOM bytes, within the peer's credit.

        Raises:
            ConnectionReset: the peer ended the connection.
            TimeoutError: the device took no packet, or the peer gave no credit.
        """
        while data:
            if not self.peer_free:
                self._send(Op.CREDIT_REQUEST, timeout=timeout)
                while not self.peer_free:
                    self._take(f"credit from {self.remote}", timeout)
            piece = data[: min(ROOM, self.peer_free)]
            self._send(Op.RW, piece, timeout=timeout)
            self._sent += len(piece)
            data = data[len(piece) :]

    def read(self, size: int, timeout: float = SERVED_S) -> bytes:
        """The next `size` bytes; fewer only if the peer shuts down sending before.

        Raises:
            ConnectionReset: the peer ended the connection.
            TimeoutError: they did not come.
        """
        while len(self._unread) < size and not self._ended:
            self._take(f"{size} bytes from {self.remote}", timeout)
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def shutdown(self, sides: Shutdown, timeout: float = SERVED_S) -> None:
        """Send SHUTDOWN with these flags.

        Raises:
            TimeoutError: the device did not take it.
        """
        self._send(Op.SHUTDOWN, flags=sides, timeout=timeout)

    def close(self, timeout: float = SERVED_S) -> None:
        """Disconnect cleanly: SHUTDOWN, and the peer's RST (5.10.6.5).

        Raises:
            TimeoutError: the peer did not answer with RST.
        """
        self._send(Op.SHUTDOWN, flags=Shutdown.RECEIVE | Shutdown.SEND, timeout=timeout)
        try:
            while True:
                self._take(f"{Op.RST.name} from {self.remote}", timeout)
        except ConnectionReset:
            return

    def _send(self, op: Op, data: bytes = b"", *, flags: int = 0, timeout: float) -> None:
        self._told = self._received
        credit = (BUF_ALLOC, self._received % U32)
        packet = Packet(self.local, self.remote, op, flags, *credit, data)
        self._vsock.send(packet, timeout)

    def _take(self, wanted: str, timeout: float) -> Packet:
        """Receive the next packet and update the connection's state from it."""
        packet = self._vsock.receive(timeout, wanted)
        if (packet.src, packet.dst) != (self.remote, self.local):
            raise VirtioError(f"{packet.op.name} came from {packet.src} to {packet.dst}")
        self._peer_alloc, self._peer_read = packet.buf_alloc, packet.fwd_cnt
        if packet.op == Op.RST:
            raise ConnectionReset(f"{self.remote} reset the connection")
        if packet.op == Op.RW:
            self._unread += packet.data
            self._received += len(packet.data)
            if self._received - self._told >= BUF_ALLOC // 2:
                self._send(Op.CREDIT_UPDATE, timeout=SERVED_S)
        elif packet.op == Op.CREDIT_REQUEST:
            self._send(Op.CREDIT_UPDATE, timeout=SERVED_S)
        elif packet.op == Op.SHUTDOWN and packet.flags & Shutdown.SEND:
            self._ended = True
        return packet
