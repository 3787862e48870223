"""qap.vhost_user.backend, tested through its socket."""

import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.oracle.features import FeatureBit, bits, mask, names
from qap.vhost_user.backend import DEFAULT_PROTOCOL_FEATURES, Backend, BackendFailed
from qap.vhost_user.protocol import NEED_REPLY, REPLY, VERSION, ProtocolError

from .front_end import FEATURES, PATIENCE_S, Frontend, R, eventfd, memfd, open_fds, u64


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
        (R.SET_MEM_TABLE, struct.pack("=II", 0, 0)),
        (R.SET_VRING_KICK, u64(1 << 8)),
        (R.SET_STATUS, u64(3)),
    ],
)
def test_acknowledgement_comes_when_asked_for(front: Frontend, request_: R, payload: bytes) -> None:
    assert front.ask_u64(request_, payload, VERSION | NEED_REPLY) == 0
    front.tell(request_, payload)
    # If the previous request had been answered, this would read that answer.
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


def test_driver_selects_what_the_configuration_is(backend: Backend, front: Frontend) -> None:
    backend.selects = lambda config: config[:1] + bytes((config[0] + 1,)) + config[2:]
    front.tell(R.SET_CONFIG, struct.pack("=III", 0, 1, 0) + b"\x07")
    read = struct.pack("=III", 0, 4, 0) + bytes(4)
    assert front.ask(R.GET_CONFIG, read)[12:] == b"\x07\x08\x03\x04"


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


def test_file_descriptors_go_with_what_replaces_them_and_with_the_connection(
    backend: Backend, front: Frontend
) -> None:
    front.handshake()
    before = open_fds()
    for _ in range(3):
        with memfd(4096) as low, memfd(8192) as high, eventfd() as event:
            table = struct.pack("=II8Q", 2, 0, 0, 4096, 0x7000, 0, 4096, 4096, 0x9000, 4096)
            front.tell(R.SET_MEM_TABLE, table, fds=[low, high])
            for request in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR):
                front.tell(request, u64(0), fds=[event])
            front.ask_u64(R.GET_FEATURES)
        assert [message.fds for message in backend.received[-5:]] == [2, 1, 1, 1, 0]
        # A mapping holds a copy of its file descriptor.
        assert open_fds() == before + 5
    front.tell(R.SET_OWNER)
    front.ask_u64(R.GET_FEATURES)
    assert open_fds() == before


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
    backend.expect(ProtocolError)
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


UNKNOWN = struct.pack("=III", 99, VERSION, 0)


def break_protocol(backend: Backend) -> None:
    """End a connection with an unknown request; returns when it has ended."""
    front = Frontend(backend.path)
    front.sock.sendall(UNKNOWN)
    front.expect_end()
    front.close()


def test_back_end_that_fails_fails_who_uses_it(tmp_path: Path) -> None:
    with (
        pytest.raises(BackendFailed, match="request 99") as failed,
        Backend(tmp_path / "s", features=FEATURES) as backend,
    ):
        break_protocol(backend)
    assert "_handle_messages" in failed.value.detail


def test_what_fails_already_is_told_of_the_back_end(tmp_path: Path) -> None:
    def both() -> None:
        with Backend(tmp_path / "s", features=FEATURES) as backend:
            break_protocol(backend)
            raise LookupError

    with pytest.raises(LookupError) as failed:
        both()
    assert "request 99" in failed.value.__notes__[0]
