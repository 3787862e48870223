"""A layer between a QEMU in L1 and the kernel's VFIO: other flags, faults, and a record.

It is a library that the QEMU is started with. What a device's kernel driver does stays real,
unless a rule says otherwise.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from qap.host.compiler import LIBRARY, compile_c
from qap.lab.l1 import L1
from qap.lab.mtty import Mtty
from qap.oracle.vfio_migration import State

SOURCE = Path(__file__).with_name("migration_layer.c")
RECORD = "record"
UNSIGNED = (1 << 64) - 1


@dataclass(frozen=True)
class Rules:
    """What is different for a device.

    Attributes:
        flags: what it says of its migration; None for what the kernel says.
        refuse, errno: a state that it does not enter, and the error.
        for_good: that leaves it in ERROR: until it is reset, all other states fail, too.
        no_data_fd: a state that begins a transfer of data, and gives no descriptor for it.
        no_reset: the error of a reset; 0 if there is none.
        read_most: bytes that a read returns at most; 0 if there is no such limit.
        pauses: in pre-copy, every second read says that there is nothing for now (ENOMSG).
        no_read, read_errno: a state in which all reads after a session's first one fail, and
            the error.
    """

    flags: int | None = None
    refuse: State | None = None
    errno: int = 0
    for_good: bool = False
    no_data_fd: State | None = None
    no_reset: int = 0
    read_most: int = 0
    pauses: bool = False
    no_read: State | None = None
    read_errno: int = 0

    def lines(self) -> str:
        """As migration_layer.c reads them: a word and three numbers a line."""
        listed: list[tuple[str, int, int, int]] = []
        if self.flags is not None:
            listed.append(("flags", self.flags, 0, 0))
        if self.refuse is not None:
            listed.append(("refuse", self.refuse, self.errno, self.for_good))
        if self.no_data_fd is not None:
            listed.append(("no-data-fd", self.no_data_fd, 0, 0))
        if self.no_reset:
            listed.append(("no-reset", self.no_reset, 0, 0))
        if self.read_most:
            listed.append(("read-most", self.read_most, 0, 0))
        if self.pauses:
            listed.append(("pauses", 0, 0, 0))
        if self.no_read is not None:
            listed.append(("no-read", self.no_read, self.read_errno, 0))
        return "".join(f"{word} {' '.join(str(int(n)) for n in rest)}\n" for word, *rest in listed)


class What(StrEnum):
    """A kind of call, with the two numbers of its record.

    Attributes:
        FLAGS: the kernel's, and those that QEMU got.
        ENTERED: the state that was asked for, and the one that the kernel has then.
        REFUSED: the state that was asked for, and the errno.
        RESET: 0 or the errno, and the state after it.
        READ: bytes, or minus the errno, and the state.
    """

    FLAGS = "flags"
    ENTERED = "entered"
    REFUSED = "refused"
    RESET = "reset"
    READ = "read"


@dataclass(frozen=True)
class Call:
    """What QEMU asked of a device.

    Attributes:
        device: its name.
        first, second: see What.
    """

    device: str
    what: What
    first: int
    second: int


@dataclass
class MigrationLayer:
    """The layer, compiled and with a folder for its rules. Use as a context manager.

    Args:
        l1: where the QEMU runs.

    Attributes:
        folder: shared with L1.
    """

    l1: L1
    folder: Path = field(init=False)

    def __enter__(self) -> Self:
        self.folder = self.l1.folder / self.l1.name("layer")
        self.folder.mkdir()
        (self.folder / RECORD).touch()
        compile_c(SOURCE, self._library, *LIBRARY, "-O1")
        return self

    @property
    def _library(self) -> Path:
        return self.folder / "migration_layer.so"

    @property
    def wrapper(self) -> Sequence[str]:
        """The words before a QEMU's command line that start it with the layer."""
        told = f"QAP_MIGRATION_LAYER={self.folder}"
        return ("/usr/bin/env", told, f"LD_PRELOAD={self._library}")

    def rule(self, device: Mtty, rules: Rules) -> None:
        """Have other rules for a device, from its next call on."""
        new = self.folder / f"{device.name}.new"
        new.write_text(rules.lines())
        new.rename(self.folder / device.name)

    def calls(self) -> list[Call]:
        """All that QEMU asked since it was last forgotten, in order."""
        found = []
        for line in (self.folder / RECORD).read_text().splitlines():
            device, what, first, second = line.split()
            numbers = [int(first), int(second)]
            if what == What.FLAGS:
                numbers = [number & UNSIGNED for number in numbers]
            found.append(Call(device, What(what), *numbers))
        return found

    def forget(self) -> None:
        """Begin a new record."""
        os.truncate(self.folder / RECORD, 0)

    def asked(self) -> list[tuple[str, State]]:
        """Device and state, in the order in which states were asked for."""
        states = (What.ENTERED, What.REFUSED)
        return [(call.device, State(call.first)) for call in self.calls() if call.what in states]

    def __exit__(self, *_: object) -> None:
        (self.folder / RECORD).rename(self.l1.folder / f"{self.folder.name}.log")
