"""A QTest session that goes along when a VM moves from one QEMU to another."""

from collections.abc import Sequence
from typing import TypeVar

from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand

T = TypeVar("T")


class MovingQtest(Qtest):
    """The commands of a session with whichever QEMU has the VM now.

    What was made with it, such as a transport or a queue, goes on at another QEMU as soon as
    `now` is a session with that one. Interrupts are not intercepted.

    Args:
        now: a session, which stays its owner's.

    Attributes:
        now: the session with the QEMU that has the VM.
    """

    def __init__(self, now: Qtest) -> None:
        self.now = now

    def run_all(self, commands: Sequence[QtestCommand[T]]) -> list[T]:
        return self.now.run_all(commands)

    def close(self) -> None:
        """Nothing: its owner ends the session."""
