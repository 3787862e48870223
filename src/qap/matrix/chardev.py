"""The chardev of a vhost-user device under test, added and removed over QMP."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qap.machine.chardev import COMMANDS, RECONNECT_MS, is_connected, wait_connected
from qap.machine.qmp import Qmp
from qap.matrix.command_line import BETWEEN, CHARDEV
from qap.matrix.setup import Setup
from qap.matrix.tables import STAYS


@dataclass(frozen=True)
class Chardev:
    """The connection of a device under test to its back-end.

    Args:
        qmp: the monitor of the QEMU that has the device.
        say: records a QMP command for those who repeat the cell by hand.
    """

    qmp: Qmp
    say: Callable[..., None]

    @property
    def is_connected(self) -> bool:
        """Whether QEMU is connected to the back-end and keeps the connection."""
        return is_connected(self.qmp, CHARDEV)

    def add(self, config: Setup, socket: Path) -> None:
        """Add a chardev that is connected to a socket, and the object between it and the device.

        Raises:
            QmpRefused: QEMU can't connect.
            TimeoutError: a chardev that reconnects did not connect.
        """
        address = {"type": "unix", "data": {"path": str(socket)}}
        data: dict[str, Any] = {"addr": address, "server": False}
        reconnects = config.reconnects and config.later != STAYS
        if reconnects:
            data["reconnect-ms"] = RECONNECT_MS
        self._execute("chardev-add", id=CHARDEV, backend={"type": "socket", "data": data})
        if reconnects:
            # chardev-add does not wait until such a chardev is connected.
            wait_connected(self.qmp, CHARDEV)
        between = config.between
        if between:
            said = COMMANDS[between.option]
            self._execute(said.add, **{said.type: between.type, "id": BETWEEN, "chardev": CHARDEV})

    def remove(self, config: Setup) -> None:
        """Remove what `add` added."""
        between = config.between
        said = COMMANDS[between.option] if between else None
        if said:
            self.qmp.execute(said.remove, id=BETWEEN)
        if not (said and said.takes_chardev):
            self.qmp.execute("chardev-remove", id=CHARDEV)

    def _execute(self, command: str, **arguments: object) -> None:
        self.say(command, **arguments)
        self.qmp.execute(command, **arguments)
