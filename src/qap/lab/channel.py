"""Byte streams between this computer and L1."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from qap.host.errors import QapError
from qap.machine.machine import Machine

# Ports of a virtio-serial device, without port 0, which is a console's.
PORTS = range(1, 31)
BUS = "channels"
UP_S = 20.0
GONE_S = 10.0


@dataclass(frozen=True)
class Channel:
    """A virtio-serial port of L1.

    Attributes:
        sock: our end.
        device: L1's end, a character device that one program at a time can open.
    """

    sock: socket.socket
    device: str


@dataclass
class Channels:
    """Plugs ports into L1's virtio-serial device, whose id is BUS.

    Args:
        machine: L1, booted.
        folder: for sockets.
    """

    machine: Machine
    folder: Path
    _taken: set[int] = field(default_factory=set)
    _made: int = 0

    @contextmanager
    def open(self, count: int) -> Iterator[list[Channel]]:
        """New channels, until the context ends.

        Raises:
            QapError: no ports are left.
            TimeoutError: L1 did not take them.
        """
        with ExitStack() as owned:
            channels = [owned.enter_context(self._plugged()) for _ in range(count)]
            there = " && ".join(f"test -c {channel.device}" for channel in channels)
            self.machine.console.check(f'await "{there}"', UP_S)
            yield channels

    @contextmanager
    def _plugged(self) -> Iterator[Channel]:
        number = min(set(PORTS) - self._taken, default=0)
        if not number:
            raise QapError(f"L1 has no more than {len(PORTS)} channels: end a QEMU in it first")
        self._made += 1
        name = f"channel{self._made}"
        path = self.folder / f"{name}.sock"
        qmp = self.machine.qmp
        self._taken.add(number)
        with ExitStack() as owned:
            owned.callback(self._taken.discard, number)
            address = {"type": "unix", "data": {"path": str(path)}}
            listening = {"addr": address, "server": True, "wait": False}
            qmp.execute("chardev-add", id=name, backend={"type": "socket", "data": listening})
            owned.callback(self._forget, name)
            sock = owned.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))
            port = {"driver": "virtserialport", "id": name, "bus": f"{BUS}.0", "nr": number}
            qmp.device_add({**port, "chardev": name})
            owned.callback(self._unplug, name)
            yield Channel(sock, f"/dev/vport0p{number}")

    def _unplug(self, name: str) -> None:
        with suppress(QapError):
            self.machine.unplug(name, GONE_S)

    def _forget(self, name: str) -> None:
        with suppress(QapError):
            self.machine.qmp.execute("chardev-remove", id=name)


def shut(socks: Iterable[socket.socket]) -> None:
    """Let those who read from sockets see an end; one that is closed already is left alone."""
    for sock in socks:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
