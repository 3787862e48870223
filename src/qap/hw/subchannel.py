"""The channel subsystem and its subchannels, driven by the I/O instructions of a CPU.

"PoP" is z/Architecture Principles of Operation, SA22-7832: chapter 14, "I/O
Instructions", unless a line names another one. This works only with devices that QEMU
emulates: their channel programs end before START SUBCHANNEL does.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qap.host.wait import poll_until
from qap.hw.channel_program import (
    IRB_SIZE,
    ORB_SIZE,
    SENSE_ID,
    SENSE_ID_SIZE,
    Ccw,
    ChannelError,
    Flag,
    Irb,
    ProgramFailed,
    SenseId,
    lay_out,
    orb,
)
from qap.hw.s390x_cpu import Cpu, Instruction

CLEAR_SUBCHANNEL = 0xB230
HALT_SUBCHANNEL = 0xB231
MODIFY_SUBCHANNEL = 0xB232
START_SUBCHANNEL = 0xB233
STORE_SUBCHANNEL = 0xB234
TEST_SUBCHANNEL = 0xB235
AND_IMMEDIATE = 0x94
OR_IMMEDIATE = 0x96

# The subsystem-identification word: without multiple channel subsystems, bit 15 is one.
SUBSYSTEM_ID_ONE = 1 << 16
SUBCHANNELS = 1 << 16

# PoP chapter 15, "Subchannel-Information Block": PMCW flags, device number and the byte
# with the concurrent-sense bit.
SCHIB_SIZE = 52
PMCW_FLAGS = 4
PMCW_ENABLED = 0x80
PMCW_VALID = 0x01
PMCW_CHARACTERISTICS = 27
PMCW_CONCURRENT_SENSE = 0x01

STATUS_S = 5.0
_AT_ONCE = 15
_REFUSED = {1: "a status is pending", 2: "it is busy", 3: "it is not operational"}


class Ended(NamedTuple):
    """The result of a channel program.

    Attributes:
        irb: the status that it ended with.
        data: the data of each CCW afterwards, as long as its count.
    """

    irb: Irb
    data: list[bytes]


@dataclass
class Subchannel:
    """A subchannel with a device.

    Attributes:
        number: of the subchannel in subchannel set 0.
        device_number: the last part of the device's `devno` property.
    """

    cpu: Cpu
    number: int
    device_number: int

    def __str__(self) -> str:
        return f"0.0.{self.device_number:04x}"

    @property
    def id(self) -> int:
        """The subsystem-identification word."""
        return _id(self.number)

    def _on(self, opcode: int, at: int = 0) -> Instruction:
        return _io(opcode, self.id, Cpu.DATA + at)

    def enable(self) -> None:
        """Disable it and enable it with concurrent sense, so that its device starts anew.

        Raises:
            ChannelError: the device has gone.
        """
        self._modify(enabled=True)

    def disable(self) -> None:
        """Disable it; raises as `enable` does."""
        self._modify(enabled=False)

    def _modify(self, *, enabled: bool) -> None:
        flags = Cpu.DATA + PMCW_FLAGS + 1
        batch = [
            self._on(TEST_SUBCHANNEL, SCHIB_SIZE),
            self._on(STORE_SUBCHANNEL),
            _immediate(AND_IMMEDIATE, flags, 0xFF & ~PMCW_ENABLED),
            self._on(MODIFY_SUBCHANNEL),
        ]
        if enabled:
            batch += [
                _immediate(OR_IMMEDIATE, flags, PMCW_ENABLED),
                _immediate(OR_IMMEDIATE, Cpu.DATA + PMCW_CHARACTERISTICS, PMCW_CONCURRENT_SENSE),
                self._on(MODIFY_SUBCHANNEL),
            ]
        batch.append(self._on(STORE_SUBCHANNEL))
        results, data = self.cpu.run(batch, bytes(SCHIB_SIZE + IRB_SIZE))
        for instruction, result in zip(batch, results, strict=True):
            if instruction.code == _code(MODIFY_SUBCHANNEL):
                self._expect(result.condition, "be modified")
        (after,) = struct.unpack_from(">H", data, PMCW_FLAGS)
        if bool(after & PMCW_ENABLED) != enabled:
            raise ChannelError(f"{self} has no device any more")

    def _expect(self, condition: int, wanted: str) -> None:
        if condition:
            raise ChannelError(f"{self} can't {wanted}: {_REFUSED[condition]}")

    def start(self, program: Sequence[Ccw], *, suspendable: bool = False) -> Ended:
        """Execute a channel program; a status that is pending before is dropped.

        Program and data are some 1500 bytes at most.

        Args:
            suspendable: let it be suspended where a CCW says so.
        Raises:
            ProgramFailed: it ended early.
            ChannelError: it could not be started, or did not end.
        """
        start_orb, start_program = 2 * IRB_SIZE, 2 * IRB_SIZE + ORB_SIZE + 4
        laid = lay_out(program, Cpu.DATA + start_program)
        block = orb(Cpu.DATA + start_program, suspendable=suspendable)
        batch = [
            self._on(TEST_SUBCHANNEL),
            self._on(START_SUBCHANNEL, start_orb),
            self._on(TEST_SUBCHANNEL, IRB_SIZE),
        ]
        data = bytes(start_orb) + block + bytes(4) + laid.raw
        (_, started, tested), after = self.cpu.run(batch, data)
        self._expect(started.condition, "be started")
        if tested.condition:
            raise ChannelError(f"the channel program of {self} has not ended")
        irb = Irb.unpack(after[IRB_SIZE:])
        if not irb.good:
            executed = (irb.address - Cpu.DATA - start_program) // 8 - 1
            raise ProgramFailed(str(self), irb, program, executed)
        return Ended(irb, [after[start_program:][part] for part in laid.buffers])

    def sense_id(self) -> SenseId:
        """What the device is; raises as `start` does."""
        identify = Ccw(SENSE_ID, Flag.SUPPRESS_LENGTH, SENSE_ID_SIZE)
        return SenseId.unpack(self.start([identify]).data[0])

    def clear(self) -> Irb:
        """Clear it, which ends what it was doing (PoP chapter 15, "Clear Function")."""
        return self._signal(CLEAR_SUBCHANNEL, "be cleared")

    def halt(self) -> Irb:
        """Halt it (PoP chapter 15, "Halt Function"); raises as `clear` does."""
        return self._signal(HALT_SUBCHANNEL, "be halted")

    def _signal(self, opcode: int, wanted: str) -> Irb:
        batch = [self._on(opcode), self._on(TEST_SUBCHANNEL)]
        (signalled, _), data = self.cpu.run(batch, bytes(IRB_SIZE))
        self._expect(signalled.condition, wanted)
        return Irb.unpack(data)

    def test(self) -> Irb | None:
        """Take the status that is pending, such as an interrupt's; None if there is none.

        Raises:
            ChannelError: the subchannel is not operational.
        """
        (tested,), data = self.cpu.run([self._on(TEST_SUBCHANNEL)], bytes(IRB_SIZE))
        if tested.condition != 1:
            self._expect(tested.condition, "be tested")
        return Irb.unpack(data) if tested.condition == 0 else None

    def wait(self, timeout: float = STATUS_S) -> Irb:
        """Take a status once one is pending; raises as `test` does.

        Args:
            timeout: in seconds.
        Raises:
            TimeoutError: none came.
        """
        return poll_until(self.test, timeout, lambda: f"a status of {self}")


@dataclass(frozen=True)
class ChannelSubsystem:
    """The subchannels that a CPU sees: those of set 0, as the other sets are not enabled."""

    cpu: Cpu

    def scan(self) -> list[Subchannel]:
        """The subchannels that have a device, lowest number first."""
        return list(self._scan())

    def find(self, device_number: int) -> Subchannel:
        """The subchannel of the device with this number.

        Raises:
            ChannelError: there is none.
        """
        for subchannel in self._scan():
            if subchannel.device_number == device_number:
                return subchannel
        raise ChannelError(f"there is no device 0.0.{device_number:04x}")

    def _scan(self) -> Iterator[Subchannel]:
        for first in range(0, SUBCHANNELS, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, SUBCHANNELS))
            batch = [
                _io(STORE_SUBCHANNEL, _id(number), Cpu.DATA + SCHIB_SIZE * index)
                for index, number in enumerate(numbers)
            ]
            results, data = self.cpu.run(batch, bytes(SCHIB_SIZE * len(batch)))
            for index, (number, stored) in enumerate(zip(numbers, results, strict=True)):
                if stored.condition == 3:
                    return
                flags, device_number = struct.unpack_from(
                    ">HH", data, SCHIB_SIZE * index + PMCW_FLAGS
                )
                if flags & PMCW_VALID:
                    yield Subchannel(self.cpu, number, device_number)


def _id(number: int) -> int:
    return SUBSYSTEM_ID_ONE | number


def _code(opcode: int) -> bytes:
    """An instruction of format S whose operand register 2 points to."""
    return struct.pack(">HH", opcode, 2 << 12)


def _io(opcode: int, subsystem_id: int, address: int) -> Instruction:
    return Instruction(_code(opcode), {1: subsystem_id, 2: address})


def _immediate(opcode: int, address: int, value: int) -> Instruction:
    return Instruction(struct.pack(">BBH", opcode, value, 2 << 12), {2: address})
