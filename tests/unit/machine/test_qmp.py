"""A session that ends before it is waited for; a real QEMU does not end at that very moment."""

import json
import socket
from threading import Thread

import pytest

from qap.machine.qmp import Qmp, QmpLost

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}}, "capabilities": []}}


def greet(sock: socket.socket) -> None:
    """The server's part of a session's begin."""
    sock.sendall(json.dumps(GREETING).encode() + b"\n")
    sock.recv(4096)
    sock.sendall(json.dumps({"return": {}}).encode() + b"\n")


def test_end_that_came_before_the_wait_is_told() -> None:
    ours, theirs = socket.socketpair()
    server = Thread(target=greet, args=(theirs,))
    server.start()
    with theirs, Qmp(ours) as qmp:
        server.join()
        theirs.close()
        with pytest.raises(QmpLost):
            qmp.wait_event("SHUTDOWN", lambda _: True, 5)
