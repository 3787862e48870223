"""Registers as a driver accesses them, whatever the specification says of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand


class RegisterAccess(NamedTuple):
    """How to read and write a register of one width."""

    read: Callable[[int], QtestCommand[int]]
    write: Callable[[int, int], QtestCommand[None]]


MEMORY = {
    1: RegisterAccess(command.readb, command.writeb),
    2: RegisterAccess(command.readw, command.writew),
    4: RegisterAccess(command.readl, command.writel),
    8: RegisterAccess(command.readq, command.writeq),
}
PORTS = {
    1: RegisterAccess(command.inb, command.outb),
    2: RegisterAccess(command.inw, command.outw),
    4: RegisterAccess(command.inl, command.outl),
}


@dataclass(frozen=True)
class Registers:
    """Raw registers: any value at any offset in any order, with nothing selected before.

    Attributes:
        base: address of the first one in memory, or its port.
        accesses: MEMORY, which has widths of 1, 2, 4 and 8 bytes, or PORTS, without 8.
    """

    qtest: Qtest
    base: int
    accesses: dict[int, RegisterAccess]

    def read(self, offset: int, width: int = 4) -> int:
        """Read `width` bytes with one access."""
        return self.qtest.run(self.accesses[width].read(self.base + offset))

    def write(self, offset: int, value: int, width: int = 4) -> None:
        """Write `width` bytes with one access."""
        self.qtest.run(self.accesses[width].write(self.base + offset, value))
