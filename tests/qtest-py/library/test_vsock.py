"""A driver of a socket device and a peer in a Python back-end: connections, data and credit.

Debian has no vhost-user-vsock back-end, and the kernel's needs /dev/vhost-vsock.
"""

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import Served
from qap.virtio import vsock
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import VirtioError
from qap.virtio.vsock import BUF_ALLOC, ConnectionReset, Op, Packet, Shutdown, Vsock

GUEST, HOST = 5, 2
ECHO, FLOOD, DEAF = 7, 19, 9
LOCAL = 1024
PAST_WRAP = 100
RINGS = {"split": (), "packed": (FeatureBit.RING_PACKED,)}
# 5.10.6, defined again here, so that the test does not rely on the driver's definition.
HEADER = struct.Struct("<QQIIIHHIII")
STREAM = 1


@dataclass
class Peer:
    """The host: port ECHO sends data back, FLOOD sends as much as requested, DEAF sends nothing.

    Attributes:
        buf_alloc: size of its buffer in bytes.
        most: the largest number of bytes in its buffer so far.
    """

    buf_alloc: int = 1 << 16
    most: int = 0
    waiting: deque[bytes] = field(default_factory=deque)
    _read: int = 0
    _got: int = 0
    _owed: int = 0
    _sent: int = 0

    def __call__(self, queue: int, readable: bytes, room: int) -> bytes | None:
        """See `qap.vhost_user.chain_service.ChainService`."""
        if queue == vsock.TX:
            self._hear(readable)
            return b""
        return self.waiting.popleft() if self.waiting else None

    def _hear(self, raw: bytes) -> None:
        src, dst, src_port, port, size, kind, op, _, alloc, fwd = HEADER.unpack_from(raw)
        assert (src, dst, src_port, kind) == (GUEST, HOST, LOCAL, STREAM)
        data = raw[HEADER.size :]
        assert len(data) == size
        if port == DEAF:
            return
        if op == Op.REQUEST and port in (ECHO, FLOOD):
            self._say(port, Op.RESPONSE)
        elif op in (Op.REQUEST, Op.SHUTDOWN):
            self._say(port, Op.RST)
        elif op == Op.RW:
            self._got += size
            self.most = max(self.most, self._got - self._read)
            if port == ECHO:
                self._say(port, Op.RW, data)
            else:
                self._owed += int.from_bytes(data)
        elif op == Op.CREDIT_REQUEST:
            self._read = self._got
            self._say(port, Op.CREDIT_UPDATE)
        if port == FLOOD:
            self._flood(alloc, fwd)

    def _flood(self, alloc: int, fwd: int) -> None:
        while piece := min(1000, self._owed, alloc - (self._sent - fwd)):
            self._owed -= piece
            self._say(FLOOD, Op.RW, bytes(self._sent + n & 0xFF for n in range(piece)))
            self._sent += piece

    def _say(self, port: int, op: Op, data: bytes = b"") -> None:
        words = (HOST, GUEST, port, LOCAL, len(data), STREAM, op, 0, self.buf_alloc, self._read)
        self.waiting.append(HEADER.pack(*words) + data)


@pytest.fixture
def connected(lab: Lab) -> Callable[..., tuple[Vsock, Peer, Backend]]:
    """Starts a machine with vhost-user-vsock-pci in front of a peer."""

    def start(*extra: int, peer: Peer | None = None) -> tuple[Vsock, Peer, Backend]:
        peer = peer or Peer()
        offered = [FeatureBit.VHOST_USER_PROTOCOL_FEATURES, FeatureBit.VERSION_1, *extra]
        backend = Backend(
            lab.folder / "vsock.sock",
            features=mask(offered),
            config=struct.pack("<Q", GUEST),
            service=peer,
        )
        lab.backends.append(lab.owned.enter_context(backend))
        device = {"driver": "vhost-user-vsock-pci", "id": "dut", "bus": "port0"}
        machine = lab.machine(
            {**device, "chardev": "vsock", "packed": True, "iommu_platform": True}, qtest=True
        )
        transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
        behaviour = Behaviour(supports=MODERN | mask(extra))
        driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
        driver.negotiate()
        # A receive buffer that the back-end takes before it has data is never used.
        return Vsock(driver, buffers=0), peer, backend

    return start


def sent(backend: Backend) -> Iterator[tuple[int, ...]]:
    """The headers of the packets that the driver sent, in order."""
    served: list[Served] = backend.served
    for chain in served:
        if chain.queue == vsock.TX:
            yield HEADER.unpack_from(chain.readable)


@pytest.mark.parametrize("ring", RINGS)
def test_stream_carries_data_both_ways(
    connected: Callable[..., tuple[Vsock, Peer, Backend]], ring: str
) -> None:
    device, _, backend = connected(*RINGS[ring])
    assert device.driver.transport.device_type == vsock.DEVICE_TYPE
    assert device.driver.has(FeatureBit.RING_PACKED) == (ring == "packed")
    assert device.guest_cid == GUEST
    stream = device.connect(ECHO, local=LOCAL)
    for number in range(PAST_WRAP):
        data = os.urandom(1 + number)
        stream.send(data)
        assert stream.read(len(data)) == data
    stream.close()
    headers = list(sent(backend))
    assert headers[0] == (GUEST, HOST, LOCAL, ECHO, 0, STREAM, 1, 0, BUF_ALLOC, 0)
    assert headers[-1][6:8] == (Op.SHUTDOWN, Shutdown.RECEIVE | Shutdown.SEND)
    received = PAST_WRAP * (PAST_WRAP + 1) // 2
    assert headers[-1][9] == received


def test_driver_waits_for_the_peers_credit(
    connected: Callable[..., tuple[Vsock, Peer, Backend]],
) -> None:
    """5.10.6.3: it sends no more than the peer's buffer holds, and CREDIT_REQUEST if it is full."""
    device, peer, backend = connected(peer=Peer(buf_alloc=300))
    stream = device.connect(ECHO, local=LOCAL)
    data = os.urandom(1000)
    stream.send(data)
    assert stream.read(1000) == data
    assert peer.most == 300
    ops = [header[6] for header in sent(backend)]
    assert ops.count(Op.CREDIT_REQUEST) == 3
    assert [header[4] for header in sent(backend) if header[6] == Op.RW] == [300, 300, 300, 100]


def test_driver_gives_the_peer_credit(
    connected: Callable[..., tuple[Vsock, Peer, Backend]],
) -> None:
    """For more than its own buffer: the peer goes on after CREDIT_UPDATE."""
    device, _, backend = connected()
    stream = device.connect(FLOOD, local=LOCAL)
    size = 3 * BUF_ALLOC
    stream.send(size.to_bytes(4))
    assert stream.read(size) == bytes(n & 0xFF for n in range(size))
    updates = [header for header in sent(backend) if header[6] == Op.CREDIT_UPDATE]
    assert len(updates) > 2
    assert all(header[8] == BUF_ALLOC for header in updates)


def test_connection_to_nobody_is_reset(
    connected: Callable[..., tuple[Vsock, Peer, Backend]],
) -> None:
    device, _, _ = connected()
    with pytest.raises(ConnectionReset, match=r"\(2, 80\) reset the connection"):
        device.connect(80, local=LOCAL)
    assert device.connect(ECHO, local=LOCAL).peer_free == 1 << 16


def test_peer_that_does_not_answer_is_named(
    connected: Callable[..., tuple[Vsock, Peer, Backend]],
) -> None:
    device, _, _ = connected()
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for RESPONSE from \(2, 9\) on queue 0"):
        device.connect(DEAF, local=LOCAL, timeout=0.2)


def test_packet_that_is_not_whole_is_an_error() -> None:
    packet = Packet((HOST, ECHO), (GUEST, LOCAL), Op.RW, data=b"data")
    assert Packet.unpack(packet.pack() + b"beyond") == packet
    for raw in (packet.pack()[:-1], packet.pack()[:40]):
        with pytest.raises(VirtioError, match="packet"):
            Packet.unpack(raw)
