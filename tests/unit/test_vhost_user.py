"""qap.vhost_user, from the other end of its sockets."""

import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.errors import QapError
from qap.features import FeatureBit, bits, mask, names
from qap.vhost_user import layout
from qap.vhost_user.backend import DEFAULT_PROTOCOL_FEATURES, Backend
from qap.vhost_user.protocol import (
    NEED_REPLY,
    REPLY,
    VERSION,
    Channel,
    Disconnected,
    FrontendRequest,
    Message,
    ProtocolError,
    ProtocolFeature,
)
from qap.vhost_user.relay import FOREIGN, HIDDEN, ByteOrderRelay

R = FrontendRequest
# Long enough for any machine; only a failing test ever waits so long.
PATIENCE_S = 5.0
FEATURES = mask(
    [FeatureBit.VERSION_1, FeatureBit.EVENT_IDX, FeatureBit.VHOST_USER_PROTOCOL_FEATURES]
)


class Frontend:
    """The end of a vhost-user connection that asks."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(path))
        self.channel = Channel(self.sock, "the back-end under test")

    def tell(
        self, request: int, payload: bytes = b"", flags: int = VERSION, fds: Sequence[int] = ()
    ) -> None:
        self.channel.send(Message(request, payload, flags, list(fds)))

    def ask(self, request: int, payload: bytes = b"", flags: int = VERSION) -> bytes:
        self.tell(request, payload, flags)
        return self.answer(request)

    def answer(self, request: int) -> bytes:
        with self.channel.receive() as reply:
            assert (reply.request, reply.flags) == (request, VERSION | REPLY)
            assert reply.fds == []
            return reply.payload

    def ask_u64(self, request: int, payload: bytes = b"", flags: int = VERSION) -> int:
        value: int = struct.unpack("=Q", self.ask(request, payload, flags))[0]
        return value

    def handshake(self) -> None:
        """The opening of vhost_user_backend_init() and vhost_dev_init()."""
        assert self.ask_u64(R.GET_FEATURES) == FEATURES
        offered = self.ask_u64(R.GET_PROTOCOL_FEATURES)
        self.tell(R.SET_PROTOCOL_FEATURES, u64(offered))
        assert self.ask_u64(R.GET_QUEUE_NUM) == 8
        self.tell(R.SET_OWNER)
        assert self.ask_u64(R.SET_FEATURES, u64(FEATURES), VERSION | NEED_REPLY) == 0

    def expect_end(self) -> None:
        with pytest.raises(Disconnected):
            self.channel.receive()

    def close(self) -> None:
        self.sock.close()


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def memfd() -> Iterator[int]:
    fd = os.memfd_create("qap-test")
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with Backend(tmp_path / "s", features=FEATURES, config=b"\x01\x02\x03\x04") as served:
        yield served


@pytest.fixture
def front(backend: Backend) -> Iterator[Frontend]:
    asking = Frontend(backend.path)
    yield asking
    asking.close()


# features


def test_bits_and_names_of_a_feature_word() -> None:
    assert bits(1 << 33 | 1 << 32 | 1) == [0, 32, 33]
    assert names([0, 32, 33]) == ["bit 0", "VERSION_1", "ACCESS_PLATFORM"]
    assert mask(bits(0x130000005)) == 0x130000005


# the back-end


def test_handshake_leaves_a_record(backend: Backend, front: Frontend) -> None:
    assert backend.acked_features is None
    front.handshake()
    assert backend.acked_features == FEATURES
    assert backend.acked_protocol_features == DEFAULT_PROTOCOL_FEATURES
    assert [message.request for message in backend.received] == [
        R.GET_FEATURES,
        R.GET_PROTOCOL_FEATURES,
        R.SET_PROTOCOL_FEATURES,
        R.GET_QUEUE_NUM,
        R.SET_OWNER,
        R.SET_FEATURES,
    ]


def test_handshake_may_begin_anew_on_a_connection(backend: Backend, front: Frontend) -> None:
    front.handshake()
    front.handshake()
    assert len(backend.requests(R.SET_OWNER)) == 2
    assert backend.error is None


def test_front_end_may_come_back(backend: Backend, front: Frontend) -> None:
    front.handshake()
    front.close()
    again = Frontend(backend.path)
    again.handshake()
    again.close()
    assert len(backend.requests(R.SET_OWNER)) == 2


def test_hang_up_ends_the_connection_and_takes_the_next(backend: Backend, front: Frontend) -> None:
    front.handshake()
    backend.hang_up()
    front.expect_end()
    backend.features = FEATURES & ~mask([FeatureBit.VERSION_1])
    again = Frontend(backend.path)
    assert again.ask_u64(R.GET_FEATURES) == backend.features
    again.close()


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (R.SET_OWNER, b""),
        (R.SET_FEATURES, u64(FEATURES)),
        (R.SET_VRING_NUM, struct.pack("=II", 0, 256)),
        (R.SET_VRING_ADDR, struct.pack("=IIQQQQ", 0, 0, 1, 2, 3, 4)),
        (R.SET_MEM_TABLE, struct.pack("=IIQQQQ", 1, 0, 0, 4096, 0x7F00, 0)),
        (R.SET_VRING_KICK, u64(1 << 8)),
        (R.SET_STATUS, u64(3)),
    ],
)
def test_acknowledgement_comes_when_asked_for(front: Frontend, request_: R, payload: bytes) -> None:
    assert front.ask_u64(request_, payload, VERSION | NEED_REPLY) == 0
    front.tell(request_, payload)
    # Had the line before been answered, this would read that answer.
    assert front.ask_u64(R.GET_FEATURES) == FEATURES


def test_request_with_its_own_reply_gets_no_second_one(front: Frontend) -> None:
    assert front.ask_u64(R.GET_QUEUE_NUM, flags=VERSION | NEED_REPLY) == 8
    assert front.ask_u64(R.GET_FEATURES) == FEATURES


def test_iotlb_message_is_always_answered(front: Frontend) -> None:
    update = struct.pack("=QQQBB6x", 0x1000, 0x1000, 0x7F0000001000, 3, 2)
    assert front.ask_u64(R.IOTLB_MSG, update) == 0


def test_config_reads_back_padded_and_written(front: Frontend) -> None:
    read = struct.pack("=III", 0, 8, 0) + bytes(8)
    assert front.ask(R.GET_CONFIG, read)[12:] == b"\x01\x02\x03\x04\0\0\0\0"
    front.tell(R.SET_CONFIG, struct.pack("=III", 3, 2, 0) + b"\xaa\xbb")
    assert front.ask(R.GET_CONFIG, read) == (
        struct.pack("=III", 0, 8, 0) + b"\x01\x02\x03\xaa\xbb\0\0\0"
    )


def test_vring_base_is_what_was_set(front: Frontend) -> None:
    front.tell(R.SET_VRING_BASE, struct.pack("=II", 1, 77))
    assert struct.unpack("=II", front.ask(R.GET_VRING_BASE, struct.pack("=II", 1, 0))) == (1, 77)
    assert struct.unpack("=II", front.ask(R.GET_VRING_BASE, struct.pack("=II", 2, 0))) == (2, 0)


def test_reset_device_clears_the_status(front: Frontend) -> None:
    front.tell(R.SET_STATUS, u64(0xF))
    assert front.ask_u64(R.GET_STATUS) == 0xF
    front.tell(R.RESET_DEVICE)
    assert front.ask_u64(R.GET_STATUS) == 0


def test_inflight_buffer_comes_as_a_file_descriptor(front: Frontend) -> None:
    front.tell(R.GET_INFLIGHT_FD, struct.pack("=QQHH4x", 0, 0, 2, 128))
    with front.channel.receive() as reply:
        size, offset, queues, entries = struct.unpack_from("=QQHH", reply.payload)
        assert (offset, queues, entries) == (0, 2, 128)
        (fd,) = reply.fds
        assert os.fstat(fd).st_size == size > 0


def test_file_descriptors_of_messages_are_closed(backend: Backend, front: Frontend) -> None:
    front.handshake()
    before = open_fds()
    ours = [os.memfd_create("region"), os.memfd_create("region")]
    table = struct.pack("=II", 2, 0) + 2 * struct.pack("=QQQQ", 0, 4096, 0, 0)
    front.tell(R.SET_MEM_TABLE, table, fds=ours)
    for request in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR):
        front.tell(request, u64(0), fds=ours[:1])
    for fd in ours:
        os.close(fd)
    front.ask_u64(R.GET_FEATURES)
    assert open_fds() == before
    assert [message.fds for message in backend.received[-5:]] == [2, 1, 1, 1, 0]


def test_backend_channel_lives_as_long_as_the_connection(front: Frontend) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        front.tell(R.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        front.ask_u64(R.GET_FEATURES)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        ours.settimeout(PATIENCE_S)
        front.close()
        assert ours.recv(1) == b""


def test_message_may_arrive_in_pieces(backend: Backend, front: Frontend) -> None:
    data = struct.pack("=IIIQ", R.SET_VRING_CALL, VERSION | NEED_REPLY, 8, 5)
    with memfd() as call:
        socket.send_fds(front.sock, [data[:1]], [call])
    for start in range(1, len(data), 5):
        front.sock.sendall(data[start : start + 5])
    assert front.answer(R.SET_VRING_CALL) == u64(0)
    (received,) = backend.received
    assert (received.words, received.fds) == ((5,), 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack("=III", R.GET_FEATURES, 2, 0), "version 2 instead of 1"),
        (struct.pack("=III", 99, VERSION, 0), "request 99"),
        (struct.pack("=III", R.POSTCOPY_ADVISE, VERSION, 0), "POSTCOPY_ADVISE"),
        (struct.pack("=III", R.CHECK_DEVICE_STATE, VERSION, 0), "doesn't serve CHECK_DEVICE_"),
        (struct.pack("=III", R.GET_FEATURES, VERSION | REPLY, 0), "as a reply"),
        (struct.pack("=IIII", R.SET_FEATURES, VERSION, 4, 0), "SET_FEATURES .* 4 bytes"),
        (struct.pack("=III", R.SET_CONFIG, VERSION, 1 << 20), "1048576 bytes"),
        (struct.pack("=6I", R.GET_CONFIG, VERSION, 12, 0, 4, 0), "announces 4 .* carries 0"),
        (struct.pack("=II", R.SET_OWNER, VERSION), "after 8 of 12"),
        (struct.pack("=IIII", R.SET_FEATURES, VERSION, 8, 0), "after 4 of 8"),
    ],
)
def test_bad_message_ends_its_connection_only(
    backend: Backend, front: Frontend, data: bytes, reason: str
) -> None:
    front.handshake()
    before = open_fds()
    with memfd() as stray:
        socket.send_fds(front.sock, [data], [stray])
    front.sock.shutdown(socket.SHUT_WR)
    front.expect_end()
    assert isinstance(backend.error, ProtocolError)
    with pytest.raises(ProtocolError, match=reason):
        raise backend.error
    again = Frontend(backend.path)
    again.handshake()
    assert open_fds() == before + 1
    again.close()


def test_wait_for_returns_when_the_message_comes(backend: Backend, front: Frontend) -> None:
    front.tell(R.SET_OWNER)
    assert backend.wait_for(R.SET_OWNER, PATIENCE_S).fds == 0
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(backend.wait_for, R.SET_STATUS, 2 * PATIENCE_S)
        front.tell(R.SET_STATUS, u64(15))
        assert waiting.result(PATIENCE_S).words == (15,)


def test_wait_for_says_what_it_waited_for(backend: Backend, front: Frontend) -> None:
    front.handshake()
    with pytest.raises(TimeoutError, match=r"SET_MEM_TABLE .* SET_FEATURES \(2\) last"):
        backend.wait_for(R.SET_MEM_TABLE, 0.01)
    with pytest.raises(TimeoutError, match="SET_OWNER"):
        backend.wait_for(R.SET_OWNER, 0.01, since=len(backend.received))


def test_close_in_mid_connection_leaves_nothing(tmp_path: Path) -> None:
    before = open_fds()
    backend = Backend(tmp_path / "s", features=FEATURES)
    front = Frontend(backend.path)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        front.tell(R.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        backend.wait_for(R.SET_BACKEND_REQ_FD, PATIENCE_S)
        backend.close()
        backend.close()
    front.expect_end()
    front.close()
    assert open_fds() == before
    assert not backend.path.exists()


def test_taken_path_is_refused(backend: Backend) -> None:
    with pytest.raises(QapError, match=r"can't listen on .*in use"):
        Backend(backend.path, features=0)


# the relay


@dataclass
class Wires:
    """A relay with a connection on each side; `backend` is what the back-end reads."""

    relay: ByteOrderRelay
    listener: socket.socket
    front: Frontend
    backend: Channel

    def join(self) -> tuple[Frontend, Channel]:
        """One more connection through the relay."""
        return _join(self.relay, self.listener)


def _join(relay: ByteOrderRelay, listener: socket.socket) -> tuple[Frontend, Channel]:
    front = Frontend(relay.path)
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE_S)
    return front, Channel(sock, "the relay under test", FOREIGN)


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind(str(tmp_path / "backend"))
        listener.listen()
        with ByteOrderRelay(tmp_path / "qemu", tmp_path / "backend") as relay:
            front, backend = _join(relay, listener)
            yield Wires(relay, listener, front, backend)
            front.close()
            backend.sock.close()


def numbered(letters: str) -> list[int]:
    """A value for each word in which no two bytes are the same."""
    sizes = [struct.calcsize("=" + letter) for letter in letters]
    return [int.from_bytes(bytes(range(16 * i + 1, 16 * i + 1 + n))) for i, n in enumerate(sizes)]


# Written down from vhost-user.rst and linux/vhost_types.h, apart from the relay's table.
REQUESTS = [
    (R.GET_FEATURES, "", b""),
    (R.SET_FEATURES, "Q", b""),
    (R.SET_MEM_TABLE, "II" + "QQQQ" * 2, b""),
    (R.ADD_MEM_REG, "QQQQQ", b""),
    (R.REM_MEM_REG, "QQQQQ", b""),
    (R.SET_LOG_BASE, "QQ", b""),
    (R.SET_VRING_NUM, "II", b""),
    (R.SET_VRING_ADDR, "IIQQQQ", b""),
    (R.SET_VRING_BASE, "II", b""),
    (R.GET_VRING_BASE, "II", b""),
    (R.SET_VRING_KICK, "Q", b""),
    (R.SET_VRING_ENABLE, "II", b""),
    (R.SEND_RARP, "", b"\x52\x54\0\x12\x34\x56\0\0"),
    (R.NET_SET_MTU, "Q", b""),
    (R.IOTLB_MSG, "QQQBB", b"\0\0\0\0\0\1"),
    (R.GET_CONFIG, "III", b"tag of a file system"),
    (R.SET_INFLIGHT_FD, "QQHH", b"\0\0\0\1"),
    (R.SET_STATUS, "Q", b""),
    (R.SET_DEVICE_STATE_FD, "II", b""),
]
REPLIES = [
    (R.GET_FEATURES, "Q", b""),
    (R.GET_QUEUE_NUM, "Q", b""),
    (R.GET_MAX_MEM_SLOTS, "Q", b""),
    (R.GET_VRING_BASE, "II", b""),
    (R.GET_CONFIG, "III", b"tag"),
    (R.GET_CONFIG, "", b""),
    (R.GET_INFLIGHT_FD, "QQHH", b""),
    (R.SET_LOG_BASE, "", b""),
    (R.SET_MEM_TABLE, "Q", b""),
    (R.SET_VRING_NUM, "Q", b""),
    (R.SET_DEVICE_STATE_FD, "Q", b""),
    (R.CHECK_DEVICE_STATE, "Q", b""),
]


@pytest.mark.parametrize(("request_", "letters", "rest"), REQUESTS)
def test_request_reaches_the_back_end_in_its_byte_order(
    wires: Wires, request_: R, letters: str, rest: bytes
) -> None:
    values = numbered(letters)
    flags = VERSION | NEED_REPLY
    wires.front.tell(request_, struct.pack("=" + letters, *values) + rest, flags)
    with wires.backend.receive() as message:
        assert (message.request, message.flags) == (request_, flags)
        assert message.payload == struct.pack(FOREIGN + letters, *values) + rest


@pytest.mark.parametrize(("request_", "letters", "rest"), REPLIES)
def test_reply_reaches_qemu_in_its_byte_order(
    wires: Wires, request_: R, letters: str, rest: bytes
) -> None:
    values = numbered(letters)
    payload = struct.pack(FOREIGN + letters, *values) + rest
    wires.backend.send(Message(request_, payload, VERSION | REPLY))
    assert wires.front.answer(request_) == struct.pack("=" + letters, *values) + rest


@pytest.mark.skipif(sys.byteorder == "big", reason="written down for a little-endian host")
def test_bytes_on_the_wire_of_a_big_endian_back_end(wires: Wires) -> None:
    wires.front.sock.sendall(bytes.fromhex("02000000 09000000 08000000 0000004001000000"))
    expected = bytes.fromhex("00000002 00000009 00000008 0000000140000000")
    assert wires.backend.sock.recv(len(expected), socket.MSG_WAITALL) == expected


@pytest.mark.parametrize("request_", layout.REQUESTS)
def test_swapping_twice_is_the_identity(request_: int) -> None:
    shape = layout.REQUESTS[request_]
    size = struct.calcsize("=" + shape.head + 3 * shape.item) + (7 if shape.raw else 0)
    payload = bytes(range(size))
    swapped = layout.swap(request_, payload, reply=False)
    assert layout.swap(request_, swapped, reply=False) == payload
    assert (swapped != payload) == bool(shape.head)


@pytest.mark.parametrize(
    ("request_", "size"),
    [(R.SET_FEATURES, 0), (R.SET_FEATURES, 9), (R.SET_MEM_TABLE, 39), (R.GET_CONFIG, 11)],
)
def test_payload_of_the_wrong_size_is_refused(request_: R, size: int) -> None:
    with pytest.raises(ProtocolError, match=rf"{request_.name} .* {size} bytes"):
        layout.swap(request_, bytes(size), reply=False)


def test_relay_hides_what_it_cannot_carry(wires: Wires) -> None:
    offered = mask(ProtocolFeature)
    reply = Message(R.GET_PROTOCOL_FEATURES, struct.pack(FOREIGN + "Q", offered), VERSION | REPLY)
    wires.backend.send(reply)
    (shown,) = struct.unpack("=Q", wires.front.answer(R.GET_PROTOCOL_FEATURES))
    assert shown == offered & ~HIDDEN
    assert ProtocolFeature.BACKEND_REQ not in bits(shown)
    assert {ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK} < set(bits(shown))


def test_file_descriptors_pass_through_both_ways(wires: Wires) -> None:
    before = open_fds()
    with memfd() as sent:
        node = os.fstat(sent).st_ino
        wires.front.tell(R.SET_LOG_FD, fds=[sent, sent])
        with wires.backend.receive() as message:
            assert [os.fstat(fd).st_ino for fd in message.fds] == [node, node]
        wires.backend.send(Message(R.GET_INFLIGHT_FD, b"", VERSION | REPLY, [sent]))
        with wires.front.channel.receive() as reply:
            assert [os.fstat(fd).st_ino for fd in reply.fds] == [node]
    # One more of each: the relay has let go of the messages before.
    wires.front.tell(R.SET_OWNER)
    wires.backend.receive().close()
    wires.backend.send(Message(R.GET_STATUS, bytes(8), VERSION | REPLY))
    wires.front.answer(R.GET_STATUS)
    assert open_fds() == before


def test_relay_joins_each_connection_to_a_fresh_one(wires: Wires) -> None:
    wires.front.close()
    with pytest.raises(Disconnected):
        wires.backend.receive()
    front, backend = wires.join()
    front.tell(R.SET_OWNER)
    with backend.receive() as message:
        assert message.request == R.SET_OWNER
    front.close()
    backend.sock.close()


def test_back_end_that_closes_ends_the_connection(wires: Wires) -> None:
    assert wires.relay.error is None
    wires.backend.sock.close()
    wires.front.expect_end()
    assert isinstance(wires.relay.error, Disconnected)
    assert "the back-end closed" in str(wires.relay.error)


def test_unknown_request_is_an_honest_failure(wires: Wires) -> None:
    wires.front.tell(R.CREATE_CRYPTO_SESSION, bytes(32))
    wires.front.expect_end()
    assert isinstance(wires.relay.error, ProtocolError)
    assert "CREATE_CRYPTO_SESSION (26)" in str(wires.relay.error)
    with pytest.raises(Disconnected):
        wires.backend.receive()


def test_request_where_a_reply_belongs_is_refused(wires: Wires) -> None:
    wires.backend.send(Message(R.GET_FEATURES, bytes(8), VERSION))
    wires.front.expect_end()
    assert "not a reply" in str(wires.relay.error)


def test_relay_without_a_back_end_says_so(tmp_path: Path) -> None:
    with ByteOrderRelay(tmp_path / "qemu", tmp_path / "nobody") as relay:
        front = Frontend(relay.path)
        front.expect_end()
        front.close()
        assert "no vhost-user back-end answers at" in str(relay.error)
        assert str(tmp_path / "nobody") in str(relay.error)


def test_closing_the_relay_leaves_nothing(wires: Wires) -> None:
    before = open_fds()
    wires.relay.close()
    wires.front.expect_end()
    with pytest.raises(Disconnected):
        wires.backend.receive()
    # Its listener and its end of both connections.
    assert open_fds() == before - 3
    assert not wires.relay.path.exists()
