"""A small s390x guest that executes the instructions which it receives on its console.

It waits, without using the host's CPU, until bytes arrive at the SCLP console. It reads them
with one SERVICE CALL, executes each instruction with register values of its own, and writes
the results back with another SERVICE CALL. `qap.hw.s390x_cpu` is the other end.

"PoP" is z/Architecture Principles of Operation, SA22-7832: chapter 3, "Assigned Storage
Locations", chapter 4, "Program-Status Word", chapter 7, "General Instructions". SCLP has
no public manual; its blocks are those of include/hw/s390x/sclp.h and event-facility.h.
"""

import os
import struct
from pathlib import Path

from qap.hw.s390x_assembler import (
    PSW_64_BIT,
    PSW_EXTERNAL,
    PSW_WAIT,
    SHORT_PSW,
    SHORT_PSW_31_BIT,
    Assembler,
)

# The emulator that runs it.
TARGET = "s390x"

# PoP chapter 3: real addresses of the lowcore. The rest of its first page is free.
IPL_PSW = 0x000
EXTERNAL_PARAMETER = 0x080
PROGRAM_CODE = 0x08E
RESTART_NEW_PSW = 0x1A0
EXTERNAL_NEW_PSW = 0x1B0
SUPERVISOR_CALL_NEW_PSW = 0x1C0
PROGRAM_NEW_PSW = 0x1D0
MACHINE_CHECK_NEW_PSW = 0x1E0
IO_NEW_PSW = 0x1F0

# PoP chapter 4, control register 0: as after a reset, and the service-signal subclass.
CONTROL_0 = 0xE0 | 0x200

# SCLP commands, the event type of the ASCII console and its bit in a mask of 32.
READ_EVENT_DATA = 0x0077_0005
WRITE_EVENT_DATA = 0x0076_0005
WRITE_EVENT_MASK = 0x0078_0005
CONSOLE_MASK = 1 << 32 - 0x1A
SCCB_SIZE = 4096

# Constants of the guest, in the lowcore, where no base register is needed.
WAIT_PSW = 0x200
CONTROL_VALUE = 0x210
READ_HEADER = 0x218
WRITE_HEADER = 0x220

# The guest's pages: its code, the block that sets the mask, the block that is exchanged.
CODE = 0x2000
MASK_SCCB = 0x2F00
SCCB = 0x3000

# In the exchanged block: the event's length; then, after what arrived first, a byte for
# alignment, how many instructions there are, where in the block the first one is, and data.
EVENT = SCCB + 8
COUNT = SCCB + 16
FIRST = SCCB + 18
DATA = SCCB + 32

# An instruction: six bytes, then from 8 on registers 0 to 7, at first those to load and then
# those it left. What was register 8 begins with the program-interruption code; its byte 4
# has the condition code, as INSERT PROGRAM MASK puts it.
ENTRY_REGISTERS = 8
ENTRY_CODE = 72
ENTRY_SIZE = 80

# Registers that the guest keeps; an instruction may use r0 to r7.
COMMAND = 1
BLOCK = 2
CONDITION = 8
LEFT = 12
BASE = 14
ENTRY = 15

ALWAYS = 15
ZERO = 8


def _service_call(a: Assembler, command: int, block: int | None = None) -> None:
    """To the block that BASE points to, unless another is given."""
    a.ril(0xC0F, COMMAND, command)  # LLILF
    if block is not None:
        a.ril(0xC0F, BLOCK, block)  # LLILF
    a.rr_extended(0xB220, COMMAND, BASE if block is None else BLOCK)  # SERVC


def _assemble() -> Assembler:
    a = Assembler()
    a.label("start")
    a.rsy(0xEB2F, 0, 0, CONTROL_VALUE)  # LCTLG
    _service_call(a, WRITE_EVENT_MASK, MASK_SCCB)

    a.label("sleep")
    a.s(0xB2B2, WAIT_PSW)  # LPSWE

    # An event is pending, or just a SERVICE CALL complete?
    a.label("external")
    a.si(0x91, EXTERNAL_PARAMETER + 3, 1)  # TM
    a.branch(0xA74, ZERO, "sleep")  # BRC
    a.ril(0xC0F, BASE, SCCB)  # LLILF
    a.ss(0xD2, 8, 0, BASE, READ_HEADER)  # MVC
    _service_call(a, READ_EVENT_DATA)

    a.rsy(0xE391, LEFT, 0, COUNT - SCCB, BASE)  # LLGH, of the same shape as RSY
    a.rsy(0xE391, ENTRY, 0, FIRST - SCCB, BASE)  # LLGH
    a.rr_extended(0xB908, ENTRY, BASE)  # AGR

    a.label("execute")
    a.ri(0xA79, CONDITION, 0)  # LGHI
    a.rsy(0xEB04, 0, 7, ENTRY_REGISTERS, ENTRY)  # LMG
    a.rx(0x44, 0, 0, ENTRY)  # EX
    a.rr_extended(0xB222, CONDITION)  # IPM
    a.rsy(0xEB24, 0, CONDITION, ENTRY_REGISTERS, ENTRY)  # STMG
    a.ri(0xA7B, ENTRY, ENTRY_SIZE)  # AGHI
    a.branch(0xA76, LEFT, "execute")  # BRCT

    # The block goes back as it is but for the header: its length is the event's and 8.
    a.label("answer")
    a.rx(0x48, COMMAND, EVENT - SCCB, BASE)  # LH
    a.ri(0xA7A, COMMAND, 8)  # AHI
    a.ss(0xD2, 8, 0, BASE, WRITE_HEADER)  # MVC
    a.rx(0x40, COMMAND, 0, BASE)  # STH
    _service_call(a, WRITE_EVENT_DATA)
    a.branch(0xA74, ALWAYS, "sleep")  # BRC

    # What follows the instruction that was checked is not executed.
    a.label("check")
    a.ss(0xD2, 2, ENTRY_CODE, ENTRY, PROGRAM_CODE)  # MVC
    a.branch(0xA74, ALWAYS, "answer")  # BRC
    return a


def image() -> bytes:
    """Memory from address 0, as QEMU's -kernel loads it and starts it at the IPL PSW."""
    program = _assemble()
    code = program.finish()
    memory = bytearray(SCCB)
    memory[CODE : CODE + len(code)] = code

    def psw(at: int, label: str, mask: int = 0) -> None:
        struct.pack_into(">QQ", memory, at, PSW_64_BIT | mask, CODE + program.labels[label])

    struct.pack_into(">II", memory, IPL_PSW, SHORT_PSW, SHORT_PSW_31_BIT | CODE)
    psw(EXTERNAL_NEW_PSW, "external")
    psw(PROGRAM_NEW_PSW, "check")
    psw(RESTART_NEW_PSW, "sleep")
    for at in (SUPERVISOR_CALL_NEW_PSW, MACHINE_CHECK_NEW_PSW, IO_NEW_PSW):
        psw(at, "answer")
    psw(WAIT_PSW, "sleep", PSW_EXTERNAL | PSW_WAIT)
    struct.pack_into(">Q", memory, CONTROL_VALUE, CONTROL_0)
    struct.pack_into(">H", memory, READ_HEADER, SCCB_SIZE)
    # Length; a mask of 4 bytes; what the guest receives and sends; room for QEMU's masks.
    struct.pack_into(">H8xHIIII", memory, MASK_SCCB, 28, 4, CONSOLE_MASK, CONSOLE_MASK, 0, 0)
    return bytes(memory)


def kernel_option(folder: Path) -> list[str]:
    """The -kernel option that starts the guest; its image goes into the caller's folder."""
    path = folder / "s390x-stub.img"
    if not path.exists() or path.read_bytes() != image():
        # Another process may read the file at this moment.
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"s390x-stub.{os.getpid()}"
        new.write_bytes(image())
        new.replace(path)
    return ["-kernel", str(path)]
