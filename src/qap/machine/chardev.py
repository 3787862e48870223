"""A chardev that is connected to a socket, and what is between it and a device."""

from collections.abc import Mapping
from typing import NamedTuple

from qap.host.wait import poll_until
from qap.machine.qmp import Qmp

CONNECTED_S = 10.0
# How often QEMU tries, where a chardev connects again.
RECONNECT_MS = 10


class Commands(NamedTuple):
    """How an object is added that stands between a chardev and a device.

    Attributes:
        add, remove: QMP commands.
        type: the argument of `add` that has its type.
        monitor: the command of the monitor that adds it.
        takes_chardev: `remove` removes its chardev, too.
    """

    add: str
    remove: str
    type: str
    monitor: str
    takes_chardev: bool


# By the option of the command line.
COMMANDS: Mapping[str, Commands] = {
    "-netdev": Commands("netdev_add", "netdev_del", "type", "netdev_add", True),
    "-object": Commands("object-add", "object-del", "qom-type", "object_add", False),
}


def is_connected(qmp: Qmp, name: str) -> bool:
    """Whether QEMU is connected, and keeps the connection."""
    chardevs = qmp.execute("query-chardev")
    (file,) = [chardev["filename"] for chardev in chardevs if chardev["label"] == name]
    return not file.startswith("disconnected:")


def wait_connected(qmp: Qmp, name: str) -> None:
    """Wait until QEMU is connected.

    Raises:
        TimeoutError: it does not connect.
    """
    poll_until(
        lambda: is_connected(qmp, name) or None,
        CONNECTED_S,
        lambda: "QEMU to connect to the back-end",
    )


def wait_lost(qmp: Qmp, name: str) -> None:
    """Wait until QEMU has seen that the other end is gone.

    Raises:
        TimeoutError: it has not.
    """
    poll_until(
        lambda: None if is_connected(qmp, name) else True,
        CONNECTED_S,
        lambda: "QEMU to see that the back-end is gone",
    )
