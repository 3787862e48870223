"""Guest memory mapped into this process, so that a driver's accesses cost QEMU nothing."""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qap.host.errors import QapError
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine

BACKEND = "memfd:memory-backend-memfd"


@dataclass
class MappedMemory(GuestMemory):
    """A range of guest RAM, read and written through a mapping of it.

    Queues and buffers in it are accessed without QTest, so that QEMU does a device's work and
    nothing else. `take_used` does not run QEMU's main loop, as a QTest command does: it sees
    what another processor would see.

    Args:
        ram: all of the machine's RAM, from guest physical address 0.
    """

    ram: mmap.mmap = field(kw_only=True)

    @classmethod
    @contextmanager
    def of(cls, machine: Machine) -> Iterator[Self]:
        """The memory of a running machine that has a QTest session, until the context ends.

        Raises:
            QapError: its RAM is in no memfd, or less than what queues and buffers take.
        """
        with _ram(machine) as ram:
            memory = cls(machine.qtest, ram=ram)
            if memory.base + memory.size > len(ram):
                raise QapError(f"{len(ram) // MIB} MiB of RAM are too few for a driver")
            yield memory

    def read(self, address: int, size: int) -> bytes:
        at = self.physical(address)
        return self.ram[at : at + size]

    def write(self, address: int, data: bytes) -> None:
        at = self.physical(address)
        self.ram[at : at + len(data)] = data

    def write_all(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        for address, data in pieces:
            self.write(address, data)

    def _clear(self, physical: int, size: int) -> None:
        self.ram[physical : physical + size] = bytes(size)


@contextmanager
def _ram(machine: Machine) -> Iterator[mmap.mmap]:
    for entry in Path(f"/proc/{machine.process.pid}/fd").iterdir():
        if BACKEND in os.readlink(entry):  # noqa: PTH115 # no file to make a Path of
            with entry.open("r+b") as backend, mmap.mmap(backend.fileno(), 0) as ram:
                yield ram
            return
    raise QapError("QEMU's RAM is in no memfd")
