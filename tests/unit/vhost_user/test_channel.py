"""qap.vhost_user.protocol.Channel: messages that arrive together, and their files."""

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from qap.vhost_user.protocol import VERSION, Channel, Message, ProtocolError

from .front_end import PATIENCE_S, R, memfd, open_fds, u64


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The sender's and the receiver's end of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(PATIENCE_S)
        yield Channel(ours, "the receiver"), Channel(theirs, "the sender")


def node(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_files_belong_to_the_message_that_they_came_with(ends: tuple[Channel, Channel]) -> None:
    """Also if several messages are read at once from the stream socket."""
    sender, receiver = ends
    with memfd() as first, memfd() as second, memfd() as third:
        sent = [
            Message(R.SET_OWNER),
            Message(R.SET_VRING_NUM, bytes(8)),
            Message(R.SET_VRING_KICK, u64(0), fds=[first]),
            Message(R.SET_VRING_BASE, bytes(8)),
            Message(R.SET_MEM_TABLE, bytes(72), fds=[second, third]),
            Message(R.SET_VRING_CALL, u64(0), fds=[third]),
            Message(R.SET_VRING_ENABLE, bytes(8)),
        ]
        for message in sent:
            sender.send(message)
        for message in sent:
            with receiver.receive() as came:
                assert (came.request, came.payload) == (message.request, message.payload)
                assert [node(fd) for fd in came.fds] == [node(fd) for fd in message.fds]


def test_message_is_pending_once_it_is_read_with_another(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    sender.send(Message(R.SET_OWNER))
    sender.send(Message(R.GET_FEATURES))
    assert not receiver.pending
    assert receiver.receive().request == R.SET_OWNER
    assert receiver.pending
    assert receiver.receive().request == R.GET_FEATURES
    assert not receiver.pending


def test_half_a_message_is_not_pending(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    second = struct.pack("=IIIQ", R.SET_FEATURES, VERSION, 8, 7)
    sender.sock.sendall(struct.pack("=III", R.SET_OWNER, VERSION, 0) + second[:15])
    receiver.receive()
    assert not receiver.pending
    sender.sock.sendall(second[15:])
    assert receiver.receive().payload == u64(7)


def test_files_of_a_message_that_nobody_received_are_closed(
    ends: tuple[Channel, Channel],
) -> None:
    sender, receiver = ends
    with memfd() as fd:
        before = open_fds()
        sender.send(Message(R.SET_OWNER))
        sender.send(Message(R.SET_VRING_KICK, u64(0), fds=[fd]))
        receiver.receive()
        assert open_fds() == before + 1
        receiver.close()
        assert open_fds() == before


def test_bad_message_closes_the_files_that_came_with_it(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    with memfd() as fd:
        before = open_fds()
        sender.send(Message(R.SET_VRING_KICK, u64(0), flags=2, fds=[fd]))
        with pytest.raises(ProtocolError, match="version 2 instead of 1"):
            receiver.receive()
        assert open_fds() == before
