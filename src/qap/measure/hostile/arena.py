"""The memory that a hostile driver gives to its device, and what must not be written around it."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from qap.host.cpu_time import children
from qap.host.errors import QapError
from qap.machine.guest_memory import MIB, PAGE
from qap.machine.machine import Machine
from qap.machine.mapped_memory import BACKEND

BASE = 16 * MIB
SIZE = 4 * MIB
END = BASE + SIZE
# The well-behaved driver that comes after is here.
GOOD_BASE = END
GOOD_SIZE = 4 * MIB
# What is neither firmware's, nor a driver's, nor the tables of an IOMMU.
FREE = ((MIB, BASE), (GOOD_BASE + GOOD_SIZE, 64 * MIB), (96 * MIB, 1 << 40))
PATTERN = b"\xa5"
# After each piece, so that what is written past its end is seen.
GAP = 64


class ArenaFull(QapError):
    """A walk has no memory left to give."""


@dataclass
class Arena:
    """The RAM of a machine as its driver sees it, mapped.

    What is taken is never taken again in the same episode, so that the device may not write
    what was taken and then released.

    Args:
        ram: all of it, from guest physical address 0.
        file: a descriptor of the same, in which memory that nobody used is a hole.

    Attributes:
        told: False once the driver said something to the device that it can't follow, such as
            a random ring address in parts: then nothing is known of what it gave.
    """

    ram: mmap.mmap
    file: int
    told: bool = True
    _next: int = END
    _top: int = END
    _given: list[tuple[int, int, int]] = field(default_factory=list)
    _before: dict[int, bytes] = field(default_factory=dict)
    _shadow: bytearray = field(default_factory=lambda: bytearray(SIZE))

    @classmethod
    @contextmanager
    def of(cls, machine: Machine) -> Iterator["Arena"]:
        """The RAM of a machine, until the context ends.

        Raises:
            QapError: its RAM is in no memfd.
        """
        # A debugger's child is QEMU.
        pids = [machine.process.pid, *children(machine.process.pid)]
        descriptors = [entry for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir()]
        for entry in descriptors:
            with suppress(FileNotFoundError):
                if BACKEND in os.readlink(entry):  # noqa: PTH115 # no file to make a Path of
                    with entry.open("r+b") as backend, mmap.mmap(backend.fileno(), 0) as ram:
                        yield cls(ram, backend.fileno())
                    return
        raise QapError("QEMU's RAM is in no memfd")

    def begin(self) -> None:
        """Start an episode: nothing is given, and the rest of RAM is as it is now."""
        self._given.clear()
        self._clear()
        self._next = self._top = BASE
        self._before = self._now()

    def _now(self) -> dict[int, bytes]:
        return {at: self.ram[at : at + PAGE] for at in self._pages()}

    def _clear(self) -> None:
        """Fill what may have been written."""
        self._fill(BASE, self._top if self.told else END)
        if not self.told:
            self._before = self._now()
            self.told = True

    def _fill(self, start: int, end: int) -> None:
        low, high = max(start, BASE), min(end, END)
        if low < high:
            self.ram[low:high] = self._shadow[low - BASE : high - BASE] = PATTERN * (high - low)

    def take(self, size: int, alignment: int = 16) -> int:
        """The address of `size` bytes, filled with PATTERN.

        Raises:
            ArenaFull: there are not that many.
        """
        address = -(-self._next // alignment) * alignment
        if address + size + GAP > END:
            raise ArenaFull("the walk has no memory left")
        self._next = address + size + GAP
        self._top = max(self._top, self._next)
        return address

    def write(self, address: int, data: bytes) -> None:
        """Write as the driver; what does not fit into the arena is left out."""
        if address >= BASE and address + len(data) <= END:
            self.ram[address : address + len(data)] = data
            self._shadow[address - BASE : address - BASE + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        """Read RAM."""
        return self.ram[address : address + size]

    def give(self, queue: int, address: int, size: int) -> None:
        """Let the device write a range, which a queue's ring or descriptor names."""
        if address < len(self.ram) and size:
            end = min(address + size, len(self.ram))
            self._given.append((queue, address, end))
            if address < END:
                self._top = max(self._top, min(end, END))

    def release(self, queue: int | None = None) -> None:
        """Take back what a queue was given, or everything: it was reset."""
        mine = [part for part in self._given if queue in (None, part[0])]
        self._given = [part for part in self._given if queue not in (None, part[0])]
        for at in self._pages():
            if any(start < at + PAGE and at < end for _, start, end in mine):
                self.ram[at : at + PAGE] = self._before.get(at, bytes(PAGE))
        if queue is None:
            self._clear()
            return
        for _, start, end in mine:
            self._fill(start, end)

    def strays(self) -> str:
        """Where RAM was written that was not given; "" if nowhere."""
        return self._in_arena() or self._elsewhere() if self.told else ""

    def _in_arena(self) -> str:
        seen = bytearray(self.ram[BASE:END])
        for _, start, end in self._given:
            low, high = max(start, BASE) - BASE, min(end, END) - BASE
            if low < high:
                seen[low:high] = self._shadow[low:high]
        if seen == self._shadow:
            return ""
        wrong = [at for at in range(SIZE) if seen[at] != self._shadow[at]]
        written = bytes(seen[wrong[0] : wrong[0] + 8]).hex()
        return f"{len(wrong)} bytes from {BASE + wrong[0]:#x} on ({written})"

    def _elsewhere(self) -> str:
        for at in self._pages():
            now = self.ram[at : at + PAGE]
            if now != self._before.get(at, bytes(PAGE)) and not self._gave(at):
                return f"the page at {at:#x}, where it has nothing"
        return ""

    def _gave(self, page: int) -> bool:
        return any(start < page + PAGE and page < end for _, start, end in self._given)

    def _pages(self) -> Iterator[int]:
        """Every page of RAM that exists, but those that others use."""
        for low, high in FREE:
            at = low
            while at < min(high, len(self.ram)):
                try:
                    at = os.lseek(self.file, at, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(self.file, at, os.SEEK_HOLE)
                yield from range(at, min(end, high), PAGE)
                at = end
