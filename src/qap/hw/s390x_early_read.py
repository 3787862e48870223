"""A small s390x guest that reads a disk's configuration before it writes features, and stops.

It has no operating system. It enables subchannel 0, runs one channel program there, and loads a
wait PSW that no interrupt ends. The address in that PSW is what it read: QEMU tells it in the event
GUEST_PANICKED.

"PoP" is z/Architecture Principles of Operation, SA22-7832, chapters 14 to 16: its instructions,
and what a SCHIB, an ORB, a CCW and an IRB hold. Commands are those of virtio 1.3, 4.3.1.2.
"""

import struct

from qap.hw.s390x_assembler import (
    PSW_64_BIT,
    PSW_WAIT,
    SHORT_PSW,
    SHORT_PSW_31_BIT,
    Assembler,
)
from qap.oracle.status import Status

SET_REVISION, WRITE_STATUS, READ_CONFIG = 0x83, 0x31, 0x22
# Virtio 1.3, 5.2.4: where blk_size ends and begins.
BLK_SIZE, CONFIG_SIZE = 20, 24

CODE = 0x2000
# What the program works on, in a page that register BASE holds.
PAGE = 0x3000
SCHIB, ORB, IRB, PSW, CCWS, REVISION, STATUS, CONFIG = (
    0x000,
    0x080,
    0x100,
    0x180,
    0x200,
    0x280,
    0x288,
    0x300,
)
# In a SCHIB, the byte of flags that has "enabled"; in an IRB, the device's status and the
# subchannel's, which are these if a program ended as it should.
FLAGS, ENABLED = SCHIB + 5, 0x80
ENDED_AT, ENDED = IRB + 8, 0x0C
CHAIN, FORMAT_1, ANY_PATH = 0x40, 0x0080, 0xFF
# What stands for a program that did not end so.
FAILED = 0xBAD

SUBCHANNEL, VALUE, BASE = 1, 3, 14
NOT_ZERO, ALWAYS = 7, 15


def _assemble() -> bytes:
    a = Assembler()
    a.ril(0xC0F, BASE, PAGE)  # LLILF
    a.ril(0xC0F, SUBCHANNEL, 0x0001_0000)  # LLILF
    a.s(0xB234, SCHIB, BASE)  # STSCH
    a.si(0x96, FLAGS, ENABLED, BASE)  # OI
    a.s(0xB232, SCHIB, BASE)  # MSCH
    a.s(0xB233, ORB, BASE)  # SSCH
    a.branch(0xA74, NOT_ZERO, "failed")  # BRC
    a.label("busy")
    a.s(0xB235, IRB, BASE)  # TSCH
    a.branch(0xA74, NOT_ZERO, "busy")  # BRC
    a.si(0x95, ENDED_AT, ENDED, BASE)  # CLI
    a.branch(0xA74, NOT_ZERO, "failed")  # BRC
    # The field is little-endian to a driver that has set a revision.
    a.rsy(0xE31E, VALUE, 0, CONFIG + BLK_SIZE, BASE)  # LRV
    a.branch(0xA74, ALWAYS, "stop")  # BRC
    a.label("failed")
    a.ril(0xC0F, VALUE, FAILED)  # LLILF
    a.label("stop")
    a.rx(0x50, VALUE, PSW + 12, BASE)  # ST
    a.s(0xB2B2, PSW, BASE)  # LPSWE
    return a.finish()


def _ccw(command: int, data: int, length: int, *, last: bool = False) -> bytes:
    return struct.pack(">BBHI", command, 0 if last else CHAIN, length, PAGE + data)


def image() -> bytes:
    """Memory from address 0, as QEMU's -kernel loads it and starts it at the IPL PSW."""
    code = _assemble()
    memory = bytearray(PAGE + 0x1000)
    memory[CODE : CODE + len(code)] = code
    struct.pack_into(">II", memory, 0, SHORT_PSW, SHORT_PSW_31_BIT | CODE)
    program = (
        _ccw(SET_REVISION, REVISION, 4)
        + _ccw(WRITE_STATUS, STATUS, 1)
        + _ccw(READ_CONFIG, CONFIG, CONFIG_SIZE, last=True)
    )
    memory[PAGE + CCWS : PAGE + CCWS + len(program)] = program
    struct.pack_into(">IHBBI", memory, PAGE + ORB, 0, FORMAT_1, ANY_PATH, 0, PAGE + CCWS)
    struct.pack_into(">HH", memory, PAGE + REVISION, 1, 0)
    memory[PAGE + STATUS] = Status.ACKNOWLEDGE | Status.DRIVER
    struct.pack_into(">QQ", memory, PAGE + PSW, PSW_64_BIT | PSW_WAIT, 0)
    return bytes(memory)
