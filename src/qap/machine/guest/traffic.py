"""Bytes that a guest and the host send each other over a network or a serial port."""

import hashlib
import os
import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Protocol

from qap.host.errors import QapError
from qap.machine.guest.console import Console
from qap.machine.guest.tools import mounted

SIZE = 1 << 20
ECHOES, ECHO_SIZE = 64, 1024
HOST = "10.0.2.2"  # the host, as a guest behind -netdev user sees it
OURS = "10.0.2.15"
WAIT_S = 30.0
# Sends standard input to a port of the host's, and writes the answer to standard output:
# struct sockaddr_vm has the family, a reserved word, the port, the CID and padding.
VSOCK_CLIENT = """
socket(S, 40, 1, 0) or die "socket: $!";
connect(S, pack("SSLLx4", 40, 0, shift, 2)) or die "connect: $!";
while (sysread(STDIN, $b, 65536)) {
    for ($o = 0; $o < length $b; $o += $n) {
        $n = syswrite(S, $b, length($b) - $o, $o) or die "send: $!";
    }
}
shutdown(S, 1);
while (sysread(S, $b, 65536)) { syswrite(STDOUT, $b) or die "write: $!"; }
"""


class TrafficMismatch(QapError):
    """What arrived is not what was sent."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Exchange(socketserver.StreamRequestHandler):
    """Reads all that a guest sends, then answers with `Peer.data`."""

    timeout = WAIT_S

    def handle(self) -> None:
        assert isinstance(self.server, Peer)
        self.server.heard = self.rfile.read()
        self.wfile.write(self.server.data)


class Peer(socketserver.TCPServer):
    """A TCP server on the loopback that exchanges SIZE random bytes with one client at a time.

    Attributes:
        data: what it sends.
        heard: what the last client sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.data = os.urandom(SIZE)
        self.heard = b""

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self.server_address[1])


@contextmanager
def peer() -> Iterator[Peer]:
    """A `Peer` that serves until the context ends."""
    with Peer() as server:
        thread = Thread(target=server.serve_forever, name="peer")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def over_network(console: Console, interface: str = "eth0") -> None:
    """Exchange SIZE bytes each way over -netdev user.

    Raises:
        TrafficMismatch: what arrived on either side is not what was sent.
    """
    with peer() as host:
        script = (
            f"ifconfig {interface} {OURS} up && "
            f"head -c {SIZE} /dev/urandom >/tmp/sent && "
            f"nc {HOST} {host.port} </tmp/sent >/tmp/got && "
            "cat /tmp/sent | sha256sum && cat /tmp/got | sha256sum"
        )
        sent, got = (line.split()[0] for line in console.check(script).splitlines())
        _compare("the host got", sent, _digest(host.heard))
        _compare("the guest got", _digest(host.data), got)


def echoed(console: Console, interface: str) -> None:
    """Send 64 KiB to the host in ICMP echo requests, and get all of them back.

    Raises:
        GuestCommandError: one is not answered.
        TimeoutError: the host answers none.
    """
    console.check(f'ifconfig {interface} {OURS} up && await "ping -c 1 -W 1 {HOST}"', WAIT_S)
    console.check(f"ping -A -c {ECHOES} -s {ECHO_SIZE} -W 5 {HOST} | grep ' 0% packet loss'")


def over_serial(console: Console, path: Path, name: str = "port") -> None:
    """Exchange 64 KiB each way through a virtserialport.

    Args:
        path: the socket that its chardev listens on.
        name: the port's own, as the guest finds it.
    Raises:
        TrafficMismatch: what arrived on either side is not what was sent.
        TimeoutError: the host got less than was sent.
    """
    size = SIZE // 16
    find_port = f"basename $(dirname $(grep -lx {name} /sys/class/virtio-ports/*/name))"
    port = console.check(find_port)
    data = os.urandom(size)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as host:
        host.settimeout(WAIT_S)
        host.connect(str(path))
        sender = Thread(target=host.sendall, args=(data,), name="serial")
        sender.start()
        try:
            # dd counts reads, which may be short; head reads until it has them all.
            got = console.check(f"head -c {size} /dev/{port} | sha256sum").split()[0]
        finally:
            sender.join()
        _compare("the guest got", _digest(data), got)
        script = f"head -c {size} /dev/urandom >/tmp/up && cat /tmp/up >/dev/{port}"
        sent = console.check(f"{script} && sha256sum /tmp/up").split()[0]
        heard = b""
        while len(heard) < size:
            piece = host.recv(size - len(heard))
            if not piece:
                raise TrafficMismatch(f"the port closed after {len(heard)} of {size} bytes")
            heard += piece
        _compare("the host got", sent, _digest(heard))


class SocketHost(Protocol):
    """What answers a guest over a socket device, such as `qap.vhost_user.vsock.VsockHost`.

    Attributes:
        port: where it listens, on CID 2.
        data: what it answers once the guest has shut down its sending.
        heard: what the guest has sent.
    """

    port: int
    data: bytes
    heard: bytearray


def over_vsock(console: Console, host: SocketHost) -> None:
    """Send SIZE bytes to the host over a socket device, and get its answer.

    The guest has the folder of qap.machine.guest.tools as 9p's "tools".

    Raises:
        TrafficMismatch: what arrived on either side is not what was sent.
    """
    with mounted(console) as perl:
        console.check(f"head -c {SIZE} /dev/urandom >/tmp/sent")
        program = f"{perl} -e '{VSOCK_CLIENT}' {host.port}"
        console.check(f"{program} </tmp/sent >/tmp/got")
        sums = console.check("sha256sum </tmp/sent; sha256sum </tmp/got")
    sent, got = (line.split()[0] for line in sums.splitlines())
    _compare("the host got", sent, _digest(bytes(host.heard)))
    _compare("the guest got", _digest(host.data), got)


def _compare(what: str, sent: str, got: str) -> None:
    if sent != got:
        raise TrafficMismatch(f"{what} SHA-256 {got[:16]}…, and {sent[:16]}… was sent")
