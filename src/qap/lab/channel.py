"""Byte streams between this computer and L1."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from qap.host.errors import QapError
from qap.machine.machine import Machine

# Ports of a virtio-serial device, without port 0, which is a console's.
PORTS = range(1, 31)
BUS = "channels"
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
        appeared: waits until L1 has these character devices.
    """

    machine: Machine
    folder: Path
    appeared: Callable[[Sequence[str]], None]
    _taken: set[int] = field(default_factory=set)
    _made: int = 0
    _last: int = 0

    @contextmanager
    def open(self, count: int) -> Iterator[list[Channel]]:
        """New channels, until the context ends.

        Raises:
            QapError: no ports are left, or L1 did not take them.
            TimeoutError: L1 does not answer.
        """
        plugged: list[str] = []
        with ExitStack() as owned, ExitStack() as first:
            first.callback(self._unplug, plugged)
            channels = [owned.enter_context(self._plugged(plugged)) for _ in range(count)]
            self.appeared([channel.device for channel in channels])
            yield channels

    @contextmanager
    def _plugged(self, names: list[str]) -> Iterator[Channel]:
        """A port whose name is noted; it must be unplugged before its context ends."""
        free = [number for number in PORTS if number not in self._taken]
        if not free:
            raise QapError(f"L1 has no more than {len(PORTS)} channels: end a QEMU in it first")
        # One that has just been unplugged may still have its device in L1: take turns.
        number = min(free, key=lambda number: (number - self._last - 1) % len(PORTS))
        self._last = number
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
            names.append(name)
            yield Channel(sock, f"/dev/vport0p{number}")

    def _unplug(self, names: Sequence[str]) -> None:
        """Unplug ports at once: QEMU takes a while until it says that one is gone."""
        left = set()
        with suppress(QapError):
            for name in names:
                self.machine.qmp.execute("device_del", id=name)
                left.add(name)
            if left:
                self.machine.qmp.wait_event(
                    "DEVICE_DELETED", lambda data: _is_last(left, data.get("device")), GONE_S
                )

    def _forget(self, name: str) -> None:
        with suppress(QapError):
            self.machine.qmp.execute("chardev-remove", id=name)


def _is_last(left: set[str], name: object) -> bool:
    left.discard(str(name))
    return not left


def shut(socks: Iterable[socket.socket]) -> None:
    """Let those who read from sockets see an end; one that is closed already is left alone."""
    for sock in socks:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
