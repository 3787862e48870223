"""An x86 CPU that runs code from Python, under page tables from Python.

The machine runs the firmware of x86_stub.S under `-accel tcg`, with a QTest session beside it;
`firmware_option` starts it. It waits for a mode, then for code; both are written by QTest.

"APM" is AMD's Architecture Programmer's Manual, volume 2, publication 24593; "Intel" the
Software Developer's Manual, volume 3.
"""

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from qap.host.errors import MissingError, QapError
from qap.host.wait import poll_until
from qap.machine.qtest import Qtest

SOURCE = Path(__file__).with_name("x86_stub.S")
RUN_S = 20.0

# Addresses, as x86_stub.S has them.
GO = 0x1000
MODE = 0x1004
HOME = 0x1008
CR4 = 0x1010
CR3 = 0x1018
REGISTERS = 0x1020
FAULT = 0x1040
FLAGS = 0x1100
DESCRIPTORS = 0x5000
TASK_STATE = 0x6000
CODE = 0x1800
CODE_SIZE = 0x800
REGISTER_NAMES = ("rax", "rbx", "rcx", "rdx")
NO_FAULT = 0xFFFF_FFFF

CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
RET = b"\xc3"

# APM, chapter 8, "Vectors", and "Page-Fault Error Code".
GENERAL_PROTECTION = 13
PAGE_FAULT = 14


class Mode(IntEnum):
    """How the CPU translates addresses; the value is the number of levels of its tables."""

    PAE = 3
    LONG = 4
    LA57 = 5


class PageFaultError(IntEnum):
    """Bits of a page fault's error code (APM 8.4.2)."""

    PRESENT = 1
    WRITE = 2
    USER = 4
    RESERVED = 8


class CpuFault(QapError):
    """The code ended in an exception.

    Attributes:
        vector: of the exception.
        error: its error code, 0 if it has none.
        address: CR2, which a page fault sets.
    """

    def __init__(self, vector: int, error: int, address: int) -> None:
        super().__init__(f"exception {vector}, error code {error:#x}, CR2 {address:#x}")
        self.vector = vector
        self.error = error
        self.address = address


def firmware_option(folder: Path) -> list[str]:
    """The -bios option that starts the firmware, assembled into the caller's folder.

    Raises:
        MissingError: there is no assembler.
        QapError: it can't assemble that.
    """
    image = folder / "x86-stub.bin"
    built = folder / f"x86-stub.{os.getpid()}"
    for argv in (
        ["as", "--64", "-o", str(built), str(SOURCE)],
        ["objcopy", "-O", "binary", "-j", ".text", str(built)],
    ):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError as exc:
            raise MissingError(f"{argv[0]} is missing: install binutils") from exc
        if done.returncode:
            raise QapError(f"{argv[0]} fails on {SOURCE.name}", done.stderr.strip())
    built.replace(image)
    return ["-bios", str(image)]


@dataclass
class Cpu:
    """The CPU of a machine that runs the firmware; for one thread at a time.

    Args:
        qtest: the machine's session.
        mode: what `start` puts it into.
    """

    qtest: Qtest
    mode: Mode

    def start(self, home: int) -> None:
        """Turn paging on; once after each reset.

        Args:
            home: CR3 of page tables that map what the firmware needs to itself: the first
                12 KiB and the last 64 KiB below 4 GiB.
        """
        extra = CR4_LA57 if self.mode == Mode.LA57 else 0
        self.qtest.write(HOME, struct.pack("<QQ", home, CR4_PAE | extra))
        self.qtest.writel(MODE, 2 if self.mode == Mode.PAE else 1)

    def run(self, code: bytes, cr3: int, registers: Mapping[str, int] | None = None) -> list[int]:
        """Run code with rax to rdx loaded; it may change these registers.

        Args:
            code: without its RET.
            cr3: of page tables that also map what `start` needs.
        Returns:
            rax, rbx, rcx and rdx.
        Raises:
            CpuFault: it ended in an exception.
            TimeoutError: it doesn't end.
        """
        self.begin(code, cr3, registers)
        return self.end()

    def end(self) -> list[int]:
        """Wait for the end of the code that `begin` started; returns and raises as `run` does."""

        def done() -> bytes | None:
            return None if self.qtest.readl(GO) else self.qtest.read(REGISTERS, 7 * 8)

        left = poll_until(done, RUN_S, lambda: "the CPU to run its code")
        *results, vector, error, address = struct.unpack("<7Q", left)
        # 32-bit code writes only 4 bytes of each slot of 8.
        if vector & 0xFFFF_FFFF != NO_FAULT:
            raise CpuFault(vector & 0xFF, error & 0xFFFF_FFFF, address)
        return results

    def begin(self, code: bytes, cr3: int, registers: Mapping[str, int] | None = None) -> None:
        """Start code as `run` does, but don't wait: it may end the machine."""
        if len(code) >= CODE_SIZE:
            raise ValueError(f"{len(code)} bytes of code are too many")
        values = [(registers or {}).get(name, 0) for name in REGISTER_NAMES]
        self.qtest.write(CODE, code + RET)
        self.qtest.write(CR3, struct.pack("<5Q", cr3, *values))
        self.qtest.writel(GO, 1)

    @contextmanager
    def held(self, cr3: int) -> Iterator[None]:
        """Keep these page tables in use; the CPU accesses only what `start` needs.

        Raises:
            TimeoutError: it does not begin, or does not end.
        """
        # movl $1, 4(%rbx); 1: pause; cmpl $0, (%rbx); je 1b
        code = b"\xc7\x43\x04\x01\x00\x00\x00" + b"\xf3\x90\x83\x3b\x00\x74\xf9"
        self.qtest.write(FLAGS, bytes(8))
        self.begin(code, cr3, {"rbx": FLAGS})
        poll_until(
            lambda: self.qtest.readl(FLAGS + 4) or None, RUN_S, lambda: f"the CPU to use {cr3:#x}"
        )
        try:
            yield
        finally:
            self.qtest.writel(FLAGS, 1)
            self.end()

    def run_as_user(self, address: int, cr3: int) -> None:
        """Go to an address in ring 3, in long mode, and wait for the exception that ends that.

        Args:
            cr3: of page tables that let ring 3 execute there, and map the first 2 MiB 1:1.
        Raises:
            CpuFault: as it must end.
            TimeoutError: it doesn't end.
        """
        user_code, user_data, task = 0x20, 0x28, 0x30
        # The first four are x86_stub.S's own; APM 4.8, "Long-Mode Segment Descriptors".
        segments = [0, 0xCF9B000000FFFF, 0xCF93000000FFFF, 0xAF9B000000FFFF]
        segments += [0xAFFB000000FFFF, 0xCFF3000000FFFF]
        segments += [0x67 | TASK_STATE << 16 | 0x89 << 40, 0]
        self.qtest.write(DESCRIPTORS, struct.pack("<8Q", *segments))
        pointer = DESCRIPTORS + 8 * len(segments)
        self.qtest.write(pointer, struct.pack("<HQ", 8 * len(segments) - 1, DESCRIPTORS))
        self.qtest.write(TASK_STATE, struct.pack("<IQ", 0, TASK_STATE) + bytes(0x5C))
        code = (
            b"\x0f\x01\x14\x25" + struct.pack("<I", pointer),  # lgdt pointer
            b"\xb8" + struct.pack("<I", task) + b"\x0f\x00\xd8",  # mov $task, %eax; ltr %ax
            bytes(
                [0x6A, user_data | 3, 0x6A, 0, 0x6A, 2, 0x6A, user_code | 3]
            ),  # push, of RFLAGS too
            b"\x48\xb8" + struct.pack("<Q", address) + b"\x50",  # mov $address, %rax; push
            b"\x48\xcf",  # iretq
        )
        self.run(b"".join(code), cr3)

    def load(self, address: int, cr3: int) -> int:
        """Read 4 bytes at a virtual address."""
        # mov (%rbx), %eax
        return self.run(b"\x8b\x03", cr3, {"rbx": address})[0] & 0xFFFF_FFFF

    def store(self, address: int, value: int, cr3: int) -> None:
        """Write 4 bytes at a virtual address."""
        # mov %eax, (%rbx)
        self.run(b"\x89\x03", cr3, {"rax": value, "rbx": address})

    def touch(self, address: int, pages: int, cr3: int) -> None:
        """Read from each of `pages` pages of 4 KiB; in long mode."""
        # 1: mov (%rbx), %eax; add $0x1000, %rbx; loop 1b
        code = b"\x8b\x03\x48\x81\xc3\x00\x10\x00\x00\xe2\xf5"
        self.run(code, cr3, {"rbx": address, "rcx": pages})

    def cpuid(self, leaf: int, cr3: int) -> list[int]:
        """EAX, EBX, ECX and EDX of a leaf's subleaf 0."""
        return [word & 0xFFFF_FFFF for word in self.run(b"\x0f\xa2", cr3, {"rax": leaf})]

    def rdmsr(self, number: int, cr3: int) -> int:
        """A model-specific register."""
        low, _, _, high = self.run(b"\x0f\x32", cr3, {"rcx": number})
        return (high & 0xFFFF_FFFF) << 32 | low & 0xFFFF_FFFF

    def wrmsr(self, number: int, value: int, cr3: int) -> None:
        """Write a model-specific register."""
        halves = {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32}
        self.run(b"\x0f\x30", cr3, {"rcx": number, **halves})
