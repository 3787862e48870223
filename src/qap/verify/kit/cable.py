"""A network card's cable, whose far end the test holds."""

import socket
from pathlib import Path

from qap.verify.kit.lab import Lab


class Cable:
    """Frames to and from QEMU's netdev "net0", one in each datagram.

    Attributes:
        netdev: QEMU's options for its end.
        far: the test's end; frames arrive here.
    """

    def __init__(self, lab: Lab) -> None:
        self.far = lab.owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        far, self._near = lab.folder / "far", lab.folder / "near"
        self.far.bind(str(far))
        ends = f"{_end('remote', far)},{_end('local', self._near)}"
        self.netdev = ("-netdev", f"dgram,id=net0,{ends}")

    def send(self, frame: bytes) -> None:
        """Send a frame to the card."""
        self.far.sendto(frame, str(self._near))


def _end(name: str, path: Path) -> str:
    return f"{name}.type=unix,{name}.path={path}"
