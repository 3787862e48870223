"""A machine of another kind, driven as if it were a PC.

Registers of virtio and PCI are little-endian on any machine, but QTest gives words in the
target's order, and only a PC has I/O ports and configuration mechanism #1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from qap.host.errors import QapError
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand

T = TypeVar("T")

# PCI 3.2.2.3.2: configuration mechanism #1.
CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
ENABLE = 1 << 31
WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}


@dataclass(frozen=True)
class HostBridge:
    """Where a PCI host bridge has its spaces in memory.

    Attributes:
        ports: I/O port 0.
        ecam: configuration space, PCIe 7.2.2; 4 KiB for each function.
    """

    ports: int
    ecam: int


class PcView(Qtest):
    """A session by which words are little-endian, ports are ports, and CF8 selects a register.

    Bytes (`read`, `b64write` and so on) are as they are.

    Args:
        session: with the machine; the caller closes it.
        bridge: of its PCI bus.
        swapped: the session gives words of a big-endian machine.
    """

    def __init__(self, session: Qtest, bridge: HostBridge, *, swapped: bool = True) -> None:
        self.session = session
        self.bridge = bridge
        self._swap = _swap if swapped else _same
        self._selected = 0

    def run_all(self, commands: Sequence[QtestCommand[T]]) -> list[T]:
        return self.session.run_all([self._translated(command) for command in commands])

    def lost(self, error: QapError) -> QapError:
        return self.session.lost(error)

    def close(self) -> None:
        """Do nothing: the caller closes the session."""

    def _translated(self, command: QtestCommand[T]) -> QtestCommand[T]:
        verb, *words = command.line.split()
        width = WIDTHS.get(verb[-1:], 0)
        access = verb[:-1]
        if not width or access not in ("read", "write", "in", "out"):
            return command
        address = int(words[0], 16)
        if access in ("in", "out"):
            if address == CONFIG_ADDRESS:
                self._selected = int(words[1], 16) & ~ENABLE
                return QtestCommand("endianness", partial(_done, command.parse))
            address = self._in_memory(address)
        if access in ("read", "in"):
            line = f"read{verb[-1]} {address:#x}"
            return QtestCommand(line, partial(_swapped, command.parse, self._swap, width))
        value = self._swap(int(words[1], 16), width)
        return QtestCommand(f"write{verb[-1]} {address:#x} {value:#x}", command.parse)

    def _in_memory(self, port: int) -> int:
        if CONFIG_DATA <= port < CONFIG_DATA + 4:
            function, register = divmod(self._selected, 1 << 8)
            return self.bridge.ecam + (function << 12) + register + port - CONFIG_DATA
        return self.bridge.ports + port


def _swap(value: int, width: int) -> int:
    return int.from_bytes(value.to_bytes(width, "little"), "big")


def _same(value: int, width: int) -> int:
    return value


def _swapped(
    parse: Callable[[str], T], swap: Callable[[int, int], int], width: int, said: str
) -> T:
    return parse(hex(swap(int(said, 16), width)))


def _done(parse: Callable[[str], T], said: str) -> T:
    return parse("")
