"""A QTest session that follows a VM when it migrates to another QEMU."""

from collections.abc import Sequence
from typing import TypeVar

from qap.host.errors import QapError
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand

T = TypeVar("T")


class MovingQtest(Qtest):
    """Sends each command to the QEMU that has the VM now.

    An object that uses it, such as a transport or a queue, drives another QEMU as soon as
    `now` is set to a session with that QEMU. Interrupts are not intercepted.

    Args:
        now: a session; the caller closes it.

    Attributes:
        now: the session with the QEMU that has the VM.
    """

    def __init__(self, now: Qtest) -> None:
        self.now = now

    def run_all(self, commands: Sequence[QtestCommand[T]]) -> list[T]:
        return self.now.run_all(commands)

    def lost(self, error: QapError) -> QapError:
        return self.now.lost(error)

    def close(self) -> None:
        """Do nothing: the caller closes `now`."""
