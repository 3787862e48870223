"""Channel programs and the status that they end with, as bytes and in words.

"PoP" is z/Architecture Principles of Operation, SA22-7832: chapter 15, "Basic I/O
Functions", for the ORB and CCWs, and chapter 16, "I/O Interruptions", for the IRB.
"Common I/O" is IBM's Common I/O-Device Commands, SA22-7204. All fields are big-endian.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from qap.host.errors import QapError

# Common I/O: commands of every device.
NO_OPERATION = 0x03
BASIC_SENSE = 0x04
SENSE_ID = 0xE4

SENSE_SIZE = 32
SENSE_ID_SIZE = 7
IRB_SIZE = 96
_CCW = struct.Struct(">BBHI")
_ORB = struct.Struct(">IHBBI")
_SCSW = struct.Struct(">HHIBBH")
_SENSE_ID = struct.Struct(">xHBHB")


class Flag(IntFlag):
    """Flags of a CCW (PoP chapter 15, "Channel-Command Word")."""

    CHAIN_DATA = 0x80
    CHAIN_COMMAND = 0x40
    SUPPRESS_LENGTH = 0x20
    SKIP = 0x10
    INDIRECT = 0x04
    SUSPEND = 0x02


NO_FLAGS = Flag(0)


class DeviceStatus(IntFlag):
    """The device status (PoP chapter 16)."""

    ATTENTION = 0x80
    STATUS_MODIFIER = 0x40
    CONTROL_UNIT_END = 0x20
    BUSY = 0x10
    CHANNEL_END = 0x08
    DEVICE_END = 0x04
    UNIT_CHECK = 0x02
    UNIT_EXCEPTION = 0x01


class SubchannelStatus(IntFlag):
    """The subchannel status (PoP chapter 16)."""

    PROGRAM_CONTROLLED_INTERRUPTION = 0x80
    INCORRECT_LENGTH = 0x40
    PROGRAM_CHECK = 0x20
    PROTECTION_CHECK = 0x10
    CHANNEL_DATA_CHECK = 0x08
    CHANNEL_CONTROL_CHECK = 0x04
    INTERFACE_CONTROL_CHECK = 0x02
    CHAINING_CHECK = 0x01


class Sense(IntFlag):
    """Bits of the first sense byte (Common I/O, "Basic Sense")."""

    COMMAND_REJECT = 0x80
    INTERVENTION_REQUIRED = 0x40
    BUS_OUT_CHECK = 0x20
    EQUIPMENT_CHECK = 0x10
    DATA_CHECK = 0x08
    OVERRUN = 0x04


# PoP chapter 15, "Operation-Request Block": format-1 CCWs, the only path.
ORB_SUSPEND = 0x0800
ORB_FORMAT_1 = 0x0080
ORB_ALL_PATHS = 0xFF
ORB_SIZE = _ORB.size

# PoP chapter 16, "Subchannel-Status Word" and "Extended-Report Word".
SCSW_STATUS_PENDING = 0x0001
ERW_CONCURRENT_SENSE = 1 << 24
ERW_OFFSET = _SCSW.size + 4
ECW_OFFSET = 32


@dataclass(frozen=True)
class Ccw:
    """A channel-command word with its data.

    Attributes:
        command: the command code.
        flags: `Subchannel.start` adds CHAIN_COMMAND where another one follows.
        count: bytes to transfer; those of `data` if None.
        data: content of the buffer before, padded with zeroes.
    """

    command: int
    flags: Flag = NO_FLAGS
    count: int | None = None
    data: bytes = b""

    @property
    def size(self) -> int:
        """The count."""
        return len(self.data) if self.count is None else self.count

    def __str__(self) -> str:
        return f"command {self.command:#04x} with {self.size} bytes"


class SenseId(NamedTuple):
    """What SENSE ID says of a device (Common I/O, "Sense ID")."""

    cu_type: int
    cu_model: int
    device_type: int
    device_model: int

    @classmethod
    def unpack(cls, raw: bytes) -> "SenseId":
        return cls(*_SENSE_ID.unpack_from(raw))


class Irb(NamedTuple):
    """An interruption-response block (PoP chapter 16).

    Attributes:
        pending: a status was pending, so that the rest means something.
        address: 8 bytes past the last CCW that was used, if any was.
        residual: bytes of the last CCW that were not transferred.
        sense: the sense data that came along, or none.
    """

    pending: bool
    address: int
    device: DeviceStatus
    subchannel: SubchannelStatus
    residual: int
    sense: bytes

    @classmethod
    def unpack(cls, raw: bytes) -> "Irb":
        _, control, address, device, subchannel, residual = _SCSW.unpack_from(raw)
        (report,) = struct.unpack_from(">I", raw, ERW_OFFSET)
        sense = raw[ECW_OFFSET:][:SENSE_SIZE] if report & ERW_CONCURRENT_SENSE else b""
        return cls(
            bool(control & SCSW_STATUS_PENDING),
            address,
            DeviceStatus(device),
            SubchannelStatus(subchannel),
            residual,
            sense,
        )

    @property
    def good(self) -> bool:
        """Whether the whole program was executed."""
        ended = DeviceStatus.CHANNEL_END | DeviceStatus.DEVICE_END
        return self.device == ended and not self.subchannel

    @property
    def rejected(self) -> bool:
        """Whether the device does not take the command."""
        return DeviceStatus.UNIT_CHECK in self.device and Sense.COMMAND_REJECT in Sense(
            self.sense[0] if self.sense else 0
        )

    def __str__(self) -> str:
        words = [*_words(self.device), *_words(self.subchannel)]
        sense = ", ".join(_words(Sense(self.sense[0]))) if self.sense else ""
        return ", ".join(words or ["no status"]) + (f" ({sense})" if sense else "")


def _words(flags: IntFlag) -> list[str]:
    return [(flag.name or hex(flag)).lower().replace("_", " ") for flag in flags]


class ChannelError(QapError):
    """A subchannel refused a request."""


class ProgramFailed(ChannelError):
    """A channel program ended early.

    Attributes:
        irb: the status it ended with.
        ccw: the one that it ended at, or None if no CCW was used.
        executed: how many were executed before that one.
    """

    def __init__(self, where: str, irb: Irb, program: Sequence[Ccw], executed: int) -> None:
        at = program[executed] if 0 <= executed < len(program) else None
        super().__init__(f"{where}: {at or 'channel program'} ended in {irb}")
        self.irb = irb
        self.ccw = at
        self.executed = executed


class ProgramLayout(NamedTuple):
    """A channel program as it lies in memory.

    Attributes:
        raw: CCWs, and then their data, each aligned to 8 bytes.
        buffers: where the data of each CCW is in `raw`.
    """

    raw: bytes
    buffers: list[slice]


def lay_out(program: Sequence[Ccw], address: int) -> ProgramLayout:
    """A program of format-1 CCWs whose first one is at `address`, a multiple of 8."""
    words, data, buffers = b"", b"", []
    first = _CCW.size * len(program)
    for index, ccw in enumerate(program):
        flags = ccw.flags
        if index + 1 < len(program) and Flag.CHAIN_DATA not in flags:
            flags |= Flag.CHAIN_COMMAND
        start = first + len(data)
        words += _CCW.pack(ccw.command, flags, ccw.size, address + start if ccw.size else 0)
        buffers.append(slice(start, start + ccw.size))
        room = max(ccw.size, len(ccw.data))
        data += ccw.data + bytes(-room % 8 + room - len(ccw.data))
    return ProgramLayout(words + data, buffers)


def orb(address: int, *, suspendable: bool = False) -> bytes:
    """An operation-request block for a program of format-1 CCWs (PoP chapter 15)."""
    control = ORB_FORMAT_1 | (ORB_SUSPEND if suspendable else 0)
    return _ORB.pack(0, control, ORB_ALL_PATHS, 0, address)
