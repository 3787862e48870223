"""An s390x CPU that executes instructions for Python, where nothing else can do the work.

The machine runs the guest of `qap.hw.s390x_stub` under `-accel tcg`; `kernel_option` starts
it. A batch of instructions is one message to the SCLP console and one back. That takes as
long as two or three QTest commands. An idle CPU uses no time of the host.

"PoP" is z/Architecture Principles of Operation, SA22-7832.
"""

import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qap.host.errors import QapError
from qap.hw import s390x_stub as stub
from qap.machine.qtest import QemuHangs, Qtest

ANSWER_S = 10.0
CLOSED = "QEMU closed the CPU's console"
# The console's buffer of 4080 bytes must have room for two messages: QEMU may read no more
# at a time than what fitted when it last looked.
MAX_MESSAGE = 2040

# The stub's block, from its byte for alignment on, and an instruction in it.
_NOT_EXECUTED = 0xFF
_HEAD = struct.Struct(">xHHI8x")
_ENTRY = struct.Struct(">6s2x8QH2xB3x")

# PoP chapter 6, "Program-Interruption Conditions".
PROGRAM_INTERRUPTIONS = {
    0x01: "operation",
    0x02: "privileged operation",
    0x03: "execute",
    0x04: "protection",
    0x05: "addressing",
    0x06: "specification",
    0x07: "data",
    0x13: "special operation",
    0x15: "operand",
}


@dataclass(frozen=True)
class Instruction:
    """An instruction of 2, 4 or 6 bytes.

    Attributes:
        registers: values of general registers 0 to 7 before it; 0 if not given.
    """

    code: bytes
    registers: Mapping[int, int] = field(default_factory=dict)


class InstructionResult(NamedTuple):
    """The result of an instruction.

    Attributes:
        condition: the condition code; that of an earlier instruction if it sets none.
        registers: general registers 0 to 7.
    """

    condition: int
    registers: tuple[int, ...]


class Executed(NamedTuple):
    """The result of a batch.

    Attributes:
        results: one for each instruction.
        data: the batch's data afterwards.
    """

    results: list[InstructionResult]
    data: bytes


class ProgramCheck(QapError):
    """An instruction ended in a program interruption; those after it were not executed.

    Attributes:
        interruption: the program-interruption code (PoP chapter 6).
        index: of the instruction in its batch.
        instruction: what was to be executed.
    """

    def __init__(self, interruption: int, index: int, instruction: Instruction) -> None:
        name = PROGRAM_INTERRUPTIONS.get(interruption, "unknown")
        said = f"instruction {index}, {instruction.code.hex()}: "
        super().__init__(f"{said}program check {interruption:#06x}, {name} exception")
        self.interruption = interruption
        self.index = index
        self.instruction = instruction


class CpuLost(QapError):
    """The CPU can't be used any more: its console was closed, or an answer did not come."""


class Cpu:
    """The CPU of a machine that runs the stub; for one thread at a time.

    A system reset starts the guest again: wait for the QMP event RESET before the next
    batch.

    Args:
        qtest: the machine's session, for callers that write into guest memory.
        serial: our end of the machine's first serial line; the caller closes it.
        timeout: seconds to wait for a batch.

    Attributes:
        timeout: as given; it may be changed.
        DATA: address of a batch's data, below 2 GiB and aligned to 32 bytes.
    """

    DATA = stub.DATA

    def __init__(self, qtest: Qtest, serial: socket.socket, timeout: float = ANSWER_S) -> None:
        self.qtest = qtest
        self._serial = serial
        self.timeout = timeout
        self._poll = select.poll()
        self._poll.register(serial, select.POLLIN)
        self._sequence = 0
        self._lost = ""

    def run(self, instructions: Sequence[Instruction], data: bytes = b"") -> Executed:
        """Execute instructions one after another.

        Args:
            data: put to `DATA` before, and returned as it is after.
        Raises:
            ProgramCheck: one of them can't be executed.
            QemuHangs: the batch doesn't end, and QEMU does not answer either.
            TimeoutError: the batch doesn't end, but QEMU answers: the CPU is stopped, or runs
                something else than the stub. It is lost.
            CpuLost: the CPU was lost before. If QEMU ended, what `Qtest.lost` says, such as
                QemuDied.
            ValueError: the batch is empty or too long: the data and 80 bytes for each
                instruction may be 2016 bytes.
        """
        self._sequence = (self._sequence + 1) % (1 << 32)
        padded = data + bytes(-len(data) % 8)
        first = stub.DATA - stub.SCCB + len(padded)
        head = _HEAD.pack(len(instructions), first, self._sequence)
        entries = b"".join([_entry(instruction) for instruction in instructions])
        answer = self._exchange(head + padded + entries, len(instructions))
        if not answer.startswith(head):
            raise self._fail("the CPU's console brought something else than its answer")
        body = answer[len(head) :]
        results = []
        left = _ENTRY.iter_unpack(body[len(padded) :])
        for index, instruction in enumerate(instructions):
            _, *registers, interruption, mask = next(left)
            if mask == _NOT_EXECUTED:
                raise ProgramCheck(interruption, index, instruction)
            results.append(InstructionResult(mask >> 4, tuple(registers)))
        return Executed(results, body[: len(data)])

    def move(self, serial: socket.socket) -> None:
        """Use another QEMU, to which the VM has migrated; the caller moves `qtest`.

        Args:
            serial: our end of its first serial line.
        """
        self._serial = serial
        # The first QEMU's line may be closed already.
        self._poll = select.poll()
        self._poll.register(serial, select.POLLIN)

    def _exchange(self, message: bytes, count: int) -> bytes:
        if self._lost == CLOSED:
            raise self.qtest.lost(CpuLost(CLOSED))
        if self._lost:
            raise CpuLost(self._lost)
        if not count or len(message) > MAX_MESSAGE:
            raise ValueError(f"{count} instructions and their data are {len(message)} bytes")
        deadline = time.monotonic() + self.timeout
        # The guest's block begins with a byte that is not ours.
        size = 1 + len(message)
        answer = b""
        try:
            self._serial.sendall(message)
            while len(answer) < size:
                if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise self._late(count)
                more = self._serial.recv(size)
                if not more:
                    raise self.qtest.lost(self._fail(CLOSED))
                answer += more
        except ConnectionError:
            raise self.qtest.lost(self._fail(CLOSED)) from None
        return answer[1:size]

    def _late(self, count: int) -> TimeoutError:
        """The error for a batch that does not end: is it QEMU that hangs, or the CPU?"""
        said = f"waited {self.timeout:g} s for the CPU to execute {count} instructions"
        self._lost = f"the CPU is out of step: {said}"
        try:
            self.qtest.endianness()
        except QemuHangs:
            return QemuHangs(f"{said}: QEMU does not answer either")
        return TimeoutError(f"{said}: QEMU answers, the CPU does not")

    def _fail(self, why: str) -> CpuLost:
        self._lost = why
        return CpuLost(why)


def _entry(instruction: Instruction) -> bytes:
    before = [instruction.registers.get(number, 0) for number in range(8)]
    return _ENTRY.pack(instruction.code, *before, 0, _NOT_EXECUTED)
