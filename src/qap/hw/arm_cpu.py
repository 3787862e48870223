"""An Arm CPU that carries out a driver's accesses, in the byte order that its guest has chosen.

QEMU asks the CPU that resets a device for the order of a legacy driver: QTest by itself, which
has no CPU, can't be a big-endian guest of a target that is little-endian by default. The machine
is `virt` under `-accel tcg`, with a QTest session beside it; `kernel_option` starts the program
below.

"Arm" is the Arm Architecture Reference Manual, ARMv7-A, DDI 0406.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.machine import qtest_command
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand

T = TypeVar("T")
Order = Literal["little", "big"]

ACCESS_S = 10.0
# Where the program looks for work: a command, an address, and a value or room for one. All are
# little-endian words.
COMMAND = 0x4200_0000
ADDRESS, VALUE = COMMAND + 4, COMMAND + 8
WIDTHS = {"b": 1, "w": 2, "l": 4}
WRITE = 0x10
LITTLE = 0x100
# Arm A8.8: the program. A command is a width, WRITE for a store, and LITTLE for a guest that is
# not big-endian.
PROGRAM = struct.pack(
    "<27I",
    0xE3A00442,  #       mov    r0, #0x42000000
    0xE5901000,  # wait: ldr    r1, [r0]
    0xE3510000,  #       cmp    r1, #0
    0x0AFFFFFC,  #       beq    wait
    0xE5902004,  #       ldr    r2, [r0, #4]
    0xE5903008,  #       ldr    r3, [r0, #8]
    0xE3110C01,  #       tst    r1, #0x100
    0xE3C11C01,  #       bic    r1, r1, #0x100
    0x1A000000,  #       bne    go
    0xF1010200,  #       setend be
    0xE3510001,  # go:   cmp    r1, #1
    0x05D23000,  #       ldrbeq r3, [r2]
    0xE3510002,  #       cmp    r1, #2
    0x01D230B0,  #       ldrheq r3, [r2]
    0xE3510004,  #       cmp    r1, #4
    0x05923000,  #       ldreq  r3, [r2]
    0xE3510011,  #       cmp    r1, #0x11
    0x05C23000,  #       strbeq r3, [r2]
    0xE3510012,  #       cmp    r1, #0x12
    0x01C230B0,  #       strheq r3, [r2]
    0xE3510014,  #       cmp    r1, #0x14
    0x05823000,  #       streq  r3, [r2]
    0xF1010000,  #       setend le
    0xE5803008,  #       str    r3, [r0, #8]
    0xE3A01000,  #       mov    r1, #0
    0xE5801000,  #       str    r1, [r0]
    0xEAFFFFE5,  #       b      wait
)


def kernel_option(folder: Path) -> list[str]:
    """The -kernel option that starts the program, which is put into the caller's folder."""
    image = folder / "arm-program.bin"
    image.write_bytes(PROGRAM)
    return ["-kernel", str(image)]


class GuestsCpu(Qtest):
    """A session whose words are read and written by the CPU; words are in the guest's order.

    Bytes (`read`, `b64write` and so on) go by QTest: they are the same in either order.

    Args:
        session: with the machine; the caller closes it.
        order: the guest's; it may be changed at any time.
    """

    def __init__(self, session: Qtest, order: Order) -> None:
        self.session = session
        self.order = order

    def run_all(self, commands: Sequence[QtestCommand[T]]) -> list[T]:
        return [self._run(command) for command in commands]

    def lost(self, error: QapError) -> QapError:
        return self.session.lost(error)

    def close(self) -> None:
        """Do nothing: the caller closes the session."""

    def _run(self, command: QtestCommand[T]) -> T:
        verb, *words = command.line.split()
        if verb == "endianness":
            return command.parse(self.order)
        width = WIDTHS.get(verb[-1:], 0)
        if not width or verb[:-1] not in ("read", "write"):
            return self.session.run(command)
        address = int(words[0], 16)
        if verb[:-1] == "read":
            return command.parse(hex(self._access(width, address, 0)))
        self._access(width | WRITE, address, int(words[1], 16))
        return command.parse("")

    def _access(self, command: int, address: int, value: int) -> int:
        """Let the CPU load or store; returns what it loaded.

        Raises:
            TimeoutError: the CPU does not answer.
        """
        session = self.session
        if self.order == "little":
            command |= LITTLE
        session.write(ADDRESS, struct.pack("<II", address, value))
        session.write(COMMAND, struct.pack("<I", command))
        ask = qtest_command.read(COMMAND, 12)

        def done() -> bytes | None:
            answer = session.run(ask)
            return None if any(answer[:4]) else answer

        answer = poll_until(done, ACCESS_S, lambda: f"the CPU to access {address:#x}")
        return int.from_bytes(answer[8:], "little")
