"""The ultravisor of a protected guest, called by a CPU that Python drives.

No public manual defines ULTRAVISOR CALL for guests; the layout of its control blocks is
that of their use in Linux (arch/s390/include/asm/uv.h). All fields are big-endian.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from qap.host.errors import QapError
from qap.hw.s390x_cpu import Cpu, Instruction

ULTRAVISOR_CALL = 0xB9A4
STORE_FACILITY_LIST_EXTENDED = 0xB2B0
# PoP chapter 4, "Facility Indications", has no text for it; Linux names it uv_call.
FACILITY = 158
PAGE = 4096
HEADER = struct.Struct(">HHHH")
_SHARE = struct.Struct(">HHHH24xQ8x")
SHARE_SIZE = _SHARE.size
QUERY_SIZE = 0x30
INSTALLED = slice(0x10, 0x30)
_AT_ONCE = 8
_FACILITIES = 256


class UvCommand(IntEnum):
    """Commands that a guest may use."""

    QUERY = 0x0001
    SET_SHARED_ACCESS = 0x1000
    REMOVE_SHARED_ACCESS = 0x1001


class Rc(IntEnum):
    """Return codes that Linux names."""

    EXECUTED = 0x0001
    INVALID_COMMAND = 0x0002
    INVALID_LENGTH = 0x0005


class Answer(NamedTuple):
    """The result of a call.

    Attributes:
        condition: the condition code, 0 where it was executed.
        rc: the return code.
        reason: the return reason code.
        block: the whole control block afterwards.
    """

    condition: int
    rc: int
    reason: int
    block: bytes


class UltravisorError(QapError):
    """The ultravisor refused a call that must succeed."""


@dataclass(frozen=True)
class Ultravisor:
    """Calls, made one after another by one CPU."""

    cpu: Cpu

    def call(self, block: bytes, offset: int = 0) -> Answer:
        """One call.

        Args:
            block: its control block, of at least 8 bytes.
            offset: put the block this many bytes past an 8-byte boundary.
        Raises:
            ProgramCheck: the block can't be accessed, or there is no ultravisor.
        """
        (made,), data = self.cpu.run([_instruction(offset)], bytes(offset) + block)
        return _answer(made.condition, data[offset:])

    def call_at(self, address: int) -> int:
        """One call whose control block is in guest memory; returns the condition code.

        Raises:
            ProgramCheck: as `call` does.
        """
        (made,), _ = self.cpu.run([Instruction(_CODE, {2: address})])
        return made.condition

    def query(self) -> set[int]:
        """The numbers of the calls that are installed.

        Raises:
            UltravisorError: the call failed.
        """
        answer = self.call(query())
        if answer.condition or answer.rc != Rc.EXECUTED:
            raise UltravisorError(f"Query ended with rc {answer.rc:#x}")
        calls = int.from_bytes(answer.block[INSTALLED])
        return {bit for bit in range(256) if calls >> 255 - bit & 1}

    def share(self, address: int, size: int = 1) -> None:
        """Share the pages of a range.

        Raises:
            UltravisorError: there is no such page.
        """
        self._convert(UvCommand.SET_SHARED_ACCESS, address, size)

    def unshare(self, address: int, size: int = 1) -> None:
        """Make the pages of a range private again; raises as `share` does."""
        self._convert(UvCommand.REMOVE_SHARED_ACCESS, address, size)

    def _convert(self, command: UvCommand, address: int, size: int) -> None:
        pages = range(address // PAGE * PAGE, address + size, PAGE)
        for first in range(0, len(pages), _AT_ONCE):
            some = pages[first : first + _AT_ONCE]
            batch = [_instruction(SHARE_SIZE * index) for index in range(len(some))]
            _, data = self.cpu.run(batch, b"".join(convert(command, page) for page in some))
            for index, page in enumerate(some):
                rc = _answer(0, data[SHARE_SIZE * index :][:SHARE_SIZE]).rc
                if rc != Rc.EXECUTED:
                    raise UltravisorError(f"{command.name} of {page:#x} ended with rc {rc:#x}")


def query(size: int = QUERY_SIZE) -> bytes:
    """A control block of `size` bytes that asks for the installed calls."""
    return HEADER.pack(size, UvCommand.QUERY, 0, 0).ljust(size, b"\0")


def convert(command: UvCommand, address: int) -> bytes:
    """A control block that shares the page of an absolute address, or unshares it."""
    return _SHARE.pack(SHARE_SIZE, command, 0, 0, address)


def facilities(cpu: Cpu) -> set[int]:
    """The numbers of the facilities that are installed (PoP, STORE FACILITY LIST EXTENDED)."""
    store = Instruction(
        struct.pack(">HH", STORE_FACILITY_LIST_EXTENDED, 2 << 12),
        {0: _FACILITIES // 64 - 1, 2: Cpu.DATA},
    )
    data = cpu.run([store], bytes(_FACILITIES // 8)).data
    listed = int.from_bytes(data)
    return {bit for bit in range(_FACILITIES) if listed >> _FACILITIES - 1 - bit & 1}


_CODE = struct.pack(">HBB", ULTRAVISOR_CALL, 0, 0 << 4 | 2)


def _instruction(offset: int) -> Instruction:
    return Instruction(_CODE, {2: Cpu.DATA + offset})


def _answer(condition: int, block: bytes) -> Answer:
    _, _, rc, reason = HEADER.unpack_from(block)
    return Answer(condition, rc, reason, block)
