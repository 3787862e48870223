"""A disk of SCSI over an image: what a command does to it (SPC-4 and SBC-3)."""

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

BLOCK = 512

# SPC-4, 5.3: status codes.
GOOD, CHECK_CONDITION = 0x00, 0x02
# SPC-4, 4.5.3: fixed format, current.
SENSE = struct.Struct(">BxB4xB4xBB4x")
SENSE_CURRENT, SENSE_MORE = 0x70, 10
NO_SENSE, HARDWARE_ERROR, ILLEGAL_REQUEST = 0x0, 0x4, 0x5

# SPC-4, 6.4: of a disk, of a unit that is not there (qualifier 3), and the version.
DISK, ABSENT, SPC_4 = 0x00, 0x7F, 0x06
RESPONSE_FORMAT, COMMAND_QUEUE = 0x02, 0x02
VENDOR, PRODUCT, REVISION = b"QAP     ", b"vhost-user disk ", b"1   "
SERIAL = b"qap-disk-0"
EVPD = 0x01
# SPC-4, 7.8 and SBC-3, 6.6: vital product data.
SUPPORTED, UNIT_SERIAL, IDENTIFICATION = 0x00, 0x80, 0x83
BLOCK_LIMITS, CHARACTERISTICS = 0xB0, 0xB1
ASCII_T10 = b"\x02\x01\x00"
# SPC-4, 7.5: mode pages, of which Caching (SBC-3, 6.5.5) says that there is a write cache.
CACHING, CONTROL, ALL_PAGES = 0x08, 0x0A, 0x3F
WRITE_CACHE = 0x04
SERVICE_READ_CAPACITY_16 = 0x10


class Command(IntEnum):
    """Operation codes (SPC-4, 6, and SBC-3, 5)."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SYNCHRONIZE_CACHE_10 = 0x35
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    WRITE_16 = 0x8A
    SYNCHRONIZE_CACHE_16 = 0x91
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0


class Fault(Exception):
    """A command that fails: its sense key, and the additional sense code with its qualifier."""

    def __init__(self, key: int, code: int, qualifier: int = 0) -> None:
        super().__init__(f"sense {key:#x}, {code:#04x}/{qualifier:#04x}")
        self.sense = sense(key, code, qualifier)


def sense(key: int, code: int = 0, qualifier: int = 0) -> bytes:
    """Sense data."""
    return SENSE.pack(SENSE_CURRENT, key, SENSE_MORE, code, qualifier)


# SPC-4, annex D: what is wrong with a command.
def _no_such_command() -> Fault:
    return Fault(ILLEGAL_REQUEST, 0x20)


def _out_of_range() -> Fault:
    return Fault(ILLEGAL_REQUEST, 0x21)


def _invalid_field() -> Fault:
    return Fault(ILLEGAL_REQUEST, 0x24)


def _no_such_unit() -> Fault:
    return Fault(ILLEGAL_REQUEST, 0x25)


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        status: of SCSI.
        sense: with CHECK_CONDITION.
        data: for the initiator.
        taken: bytes that it used of those from the initiator.
    """

    status: int = GOOD
    sense: bytes = b""
    data: bytes = b""
    taken: int = 0


class _Extent(NamedTuple):
    """Blocks of a command: the first one, and how many."""

    first: int
    blocks: int


@dataclass(frozen=True)
class ScsiDisk:
    """The only logical unit of a target, LUN 0. Its write cache is the page cache of the host.

    Args:
        image: raw; what is beyond its last whole block is not used.
    """

    image: Path
    _commands: Mapping[int, Callable[[bytes, bytes], Ended]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        commands: dict[int, Callable[[bytes, bytes], Ended]] = {
            Command.TEST_UNIT_READY: lambda _, __: Ended(),
            Command.REQUEST_SENSE: lambda cdb, _: Ended(data=sense(NO_SENSE)[: cdb[4]]),
            Command.INQUIRY: lambda cdb, _: _inquiry(cdb, present=True),
            Command.MODE_SENSE_6: lambda cdb, _: _mode_sense_6(cdb),
            Command.MODE_SENSE_10: lambda cdb, _: _mode_sense_10(cdb),
            Command.READ_CAPACITY_10: lambda _, __: self._capacity_10(),
            Command.SERVICE_ACTION_IN_16: lambda cdb, _: self._capacity_16(cdb),
            Command.READ_10: lambda cdb, _: self._read(_extent_10(cdb)),
            Command.READ_16: lambda cdb, _: self._read(_extent_16(cdb)),
            Command.WRITE_10: lambda cdb, data: self._write(_extent_10(cdb), data),
            Command.WRITE_16: lambda cdb, data: self._write(_extent_16(cdb), data),
            Command.SYNCHRONIZE_CACHE_10: lambda cdb, _: self._flush(_extent_10(cdb)),
            Command.SYNCHRONIZE_CACHE_16: lambda cdb, _: self._flush(_extent_16(cdb)),
            Command.REPORT_LUNS: lambda cdb, _: _report_luns(cdb),
        }
        object.__setattr__(self, "_commands", commands)

    @property
    def blocks(self) -> int:
        """How many it has."""
        return self.image.stat().st_size // BLOCK

    def execute(self, lun: int, cdb: bytes, data: bytes = b"") -> Ended:
        """Carry out a command; one that fails has sense data.

        Args:
            lun: the unit that is addressed. Those that are not there answer INQUIRY, REPORT
                LUNS and REQUEST SENSE (SPC-4, 4.6.4 and 5.11).
            cdb: the command, of 16 bytes at least.
            data: from the initiator.
        """
        try:
            return self._absent(cdb) if lun else self._present(cdb, data)
        except Fault as fault:
            return Ended(CHECK_CONDITION, fault.sense)
        except OSError:
            # Internal target failure: the image can't be read or written.
            return Ended(CHECK_CONDITION, sense(HARDWARE_ERROR, 0x44))

    def _present(self, cdb: bytes, data: bytes) -> Ended:
        command = self._commands.get(cdb[0])
        if command is None:
            raise _no_such_command()
        return command(cdb, data)

    def _absent(self, cdb: bytes) -> Ended:
        if cdb[0] == Command.INQUIRY:
            return _inquiry(cdb, present=False)
        if cdb[0] == Command.REPORT_LUNS:
            return _report_luns(cdb)
        if cdb[0] == Command.REQUEST_SENSE:
            return Ended(data=sense(ILLEGAL_REQUEST, 0x25)[: cdb[4]])
        raise _no_such_unit()

    def _capacity_10(self) -> Ended:
        last = min(self.blocks - 1, 0xFFFFFFFF)
        return Ended(data=struct.pack(">II", last, BLOCK))

    def _capacity_16(self, cdb: bytes) -> Ended:
        """SBC-3, 5.16.2."""
        if cdb[1] & 0x1F != SERVICE_READ_CAPACITY_16:
            raise _invalid_field()
        (room,) = struct.unpack_from(">I", cdb, 10)
        return Ended(data=struct.pack(">QI20x", self.blocks - 1, BLOCK)[:room])

    def _read(self, extent: _Extent) -> Ended:
        self._check(extent)
        size = extent.blocks * BLOCK
        with self.image.open("rb", buffering=0) as image:
            data = os.pread(image.fileno(), size, extent.first * BLOCK)
        return Ended(data=data.ljust(size, b"\0"))

    def _write(self, extent: _Extent, data: bytes) -> Ended:
        self._check(extent)
        # What the initiator did not send is a matter of the transport, which tells it.
        whole = data[: extent.blocks * BLOCK]
        with self.image.open("r+b", buffering=0) as image:
            at = 0
            while at < len(whole):
                at += os.pwrite(image.fileno(), whole[at:], extent.first * BLOCK + at)
        return Ended(taken=len(whole))

    def _flush(self, extent: _Extent) -> Ended:
        """All of it, whatever the extent is."""
        self._check(extent)
        with self.image.open("r+b", buffering=0) as image:
            os.fdatasync(image.fileno())
        return Ended()

    def _check(self, extent: _Extent) -> None:
        if extent.first + extent.blocks > self.blocks:
            raise _out_of_range()


def wanted(cdb: bytes) -> int:
    """How many bytes a command takes from the initiator."""
    return _moved(cdb, Command.WRITE_10, Command.WRITE_16)


def given(cdb: bytes) -> int:
    """How many bytes of the disk a command gives to the initiator."""
    return _moved(cdb, Command.READ_10, Command.READ_16)


def _moved(cdb: bytes, short: int, long: int) -> int:
    """How many bytes a command moves, if it is one of these, of 10 or of 16 bytes."""
    extents = {short: _extent_10, long: _extent_16}
    return extents[cdb[0]](cdb).blocks * BLOCK if cdb[0] in extents else 0


def _extent_10(cdb: bytes) -> _Extent:
    """Of a command of 10 bytes (SBC-3, 5.8 and others)."""
    return _Extent(*struct.unpack_from(">IxH", cdb, 2))


def _extent_16(cdb: bytes) -> _Extent:
    """Of a command of 16 bytes (SBC-3, 5.10 and others)."""
    return _Extent(*struct.unpack_from(">QI", cdb, 2))


def _inquiry(cdb: bytes, *, present: bool) -> Ended:
    """SPC-4, 6.4."""
    page = cdb[2]
    (room,) = struct.unpack_from(">H", cdb, 3)
    if not cdb[1] & EVPD:
        if page:
            raise _invalid_field()
        kind = DISK if present else ABSENT
        head = bytes((kind, 0, SPC_4, RESPONSE_FORMAT, 31, 0, 0, COMMAND_QUEUE))
        return Ended(data=(head + VENDOR + PRODUCT + REVISION)[:room])
    if page not in VITAL or not present:
        raise _invalid_field()
    return Ended(data=(struct.pack(">BBH", DISK, page, len(VITAL[page])) + VITAL[page])[:room])


# A T10 vendor identification of the unit (SPC-4, 7.8.6.4).
_IDENTITY = VENDOR + SERIAL
VITAL: Mapping[int, bytes] = {
    SUPPORTED: bytes((SUPPORTED, UNIT_SERIAL, IDENTIFICATION, BLOCK_LIMITS, CHARACTERISTICS)),
    UNIT_SERIAL: SERIAL,
    IDENTIFICATION: ASCII_T10 + bytes((len(_IDENTITY),)) + _IDENTITY,
    # No limit, and no command for it to limit beside READ and WRITE.
    BLOCK_LIMITS: bytes(60),
    # It does not rotate.
    CHARACTERISTICS: struct.pack(">H58x", 1),
}
PAGES: Mapping[int, bytes] = {
    CACHING: bytes((CACHING, 18, WRITE_CACHE)) + bytes(17),
    CONTROL: bytes((CONTROL, 10)) + bytes(10),
}


def _pages(cdb: bytes) -> bytes:
    """The mode pages that are asked for: current, default or saved ones, which are the same.

    Of those that can be changed (page control 1) every bit is 0.
    """
    control, page = cdb[2] >> 6, cdb[2] & 0x3F
    if control == 3:
        raise Fault(ILLEGAL_REQUEST, 0x39)
    if page not in (*PAGES, ALL_PAGES) or cdb[3]:
        raise _invalid_field()
    pages = [*PAGES.values()] if page == ALL_PAGES else [PAGES[page]]
    if control == 1:
        pages = [one[:2] + bytes(len(one) - 2) for one in pages]
    return b"".join(pages)


def _mode_sense_6(cdb: bytes) -> Ended:
    """SPC-4, 6.11, without block descriptors."""
    pages = _pages(cdb)
    return Ended(data=(struct.pack(">Bxxx", 3 + len(pages)) + pages)[: cdb[4]])


def _mode_sense_10(cdb: bytes) -> Ended:
    """SPC-4, 6.12, without block descriptors."""
    pages = _pages(cdb)
    (room,) = struct.unpack_from(">H", cdb, 7)
    return Ended(data=(struct.pack(">H6x", 6 + len(pages)) + pages)[:room])


def _report_luns(cdb: bytes) -> Ended:
    """SPC-4, 6.33: one unit, LUN 0."""
    (room,) = struct.unpack_from(">I", cdb, 6)
    return Ended(data=struct.pack(">I4xQ", 8, 0)[:room])
