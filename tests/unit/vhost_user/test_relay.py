"""qap.vhost_user.relay, tested through both of its sockets."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.oracle.features import bits, mask
from qap.vhost_user import layout
from qap.vhost_user.protocol import (
    NEED_REPLY,
    REPLY,
    VERSION,
    Channel,
    Disconnected,
    Message,
    ProtocolError,
    ProtocolFeature,
)
from qap.vhost_user.relay import FOREIGN, HIDDEN, ByteOrderRelay

from .front_end import PATIENCE_S, Frontend, R, memfd, open_fds


@dataclass
class Wires:
    """A relay with a connection on each side; `backend` is the back-end's end."""

    relay: ByteOrderRelay
    listener: socket.socket
    front: Frontend
    backend: Channel

    def join(self) -> tuple[Frontend, Channel]:
        """Make another connection through the relay."""
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
    """A value for each word, with bytes that all differ."""
    sizes = [struct.calcsize("=" + letter) for letter in letters]
    return [int.from_bytes(bytes(range(16 * i + 1, 16 * i + 1 + n))) for i, n in enumerate(sizes)]


# From vhost-user.rst and linux/vhost_types.h, independent of the relay's own table.
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
    # One more of each: after that the relay has closed the earlier messages.
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


# as a program

PROGRAM = [sys.executable, "-m", "qap.vhost_user.relay"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_program_relays_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    argv = [*PROGRAM, str(tmp_path / "qemu"), str(tmp_path / "backend")]
    with (
        socket.socket(socket.AF_UNIX) as listener,
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as program,
    ):
        try:
            assert program.stdout is not None
            assert str(tmp_path / "qemu") in program.stdout.readline()
            listener.settimeout(PATIENCE_S)
            listener.bind(str(tmp_path / "backend"))
            listener.listen()
            front = Frontend(tmp_path / "qemu")
            front.tell(R.SET_OWNER)
            sock, _ = listener.accept()
            with sock, Channel(sock, "the relay", FOREIGN).receive() as message:
                assert message.request == R.SET_OWNER
                program.send_signal(number)
                assert program.wait(PATIENCE_S) == 0
            front.expect_end()
            front.close()
            assert not (tmp_path / "qemu").exists()
        finally:
            program.kill()


@pytest.mark.parametrize("argv", [[], ["one"], ["one", "two", "three"]])
def test_program_with_bad_usage_says_its_own(argv: list[str]) -> None:
    done = subprocess.run([*PROGRAM, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "QEMU_SOCKET BACKEND_SOCKET" in line


def test_program_on_a_taken_path_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    argv = [*PROGRAM, str(tmp_path / "taken"), str(tmp_path / "backend")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert "can't listen on" in line
    assert (tmp_path / "taken").exists()
