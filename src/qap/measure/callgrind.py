"""A QEMU whose instructions are counted, by valgrind's callgrind."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qap.host.compiler import LIBRARY, compile_c
from qap.host.errors import MissingError, QapError
from qap.machine.machine import Machine
from qap.machine.spec import Spec

# A QMP command, and the function that QEMU runs for it and for nothing else.
MARK_COMMAND = "query-name"
MARK_FUNCTION = "qmp_query_name"
TOTALS = "totals:"
NO_IO_URING = Path(__file__).with_name("no_io_uring.c")


@dataclass
class Counted:
    """A QEMU under callgrind. Use as a context manager.

    Args:
        binary: the emulator, not stripped of its symbols.
        spec: what to run; a QEMU that executes guest code counts what it translates, too.
        inside: functions; what any thread does in them, and in what they call, is counted.
            None of them may call another, or itself: callgrind would stop counting there.

    Attributes:
        machine: the QEMU, some fifty times as slow as without callgrind.
    """

    binary: Path
    spec: Spec
    inside: Sequence[str]
    machine: Machine = field(init=False)
    _dump: Path = field(init=False)
    _marks: int = 0
    _owned: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as owned:
            folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
            self._dump = folder / "callgrind"
            wrapper = valgrind_argv(self._dump, self.inside)
            machine = Machine(self.binary, self.spec, log=folder / "qemu.log", wrapper=wrapper)
            self.machine = owned.enter_context(machine)
            self._owned = owned.pop_all()
        return self

    def mark(self) -> int:
        """Instructions since the last mark, or since the start, in all of QEMU's threads.

        The cost of the mark itself is included if it is within `inside`; it is always the same.

        Raises:
            QapError: callgrind wrote nothing, or not what it writes otherwise, or QEMU has not
                been in one of the functions.
        """
        self.machine.qmp.execute(MARK_COMMAND)
        self._marks += 1
        written = self._dump.with_name(f"{self._dump.name}.{self._marks}")
        try:
            profile = written.read_text()
        except FileNotFoundError:
            raise QapError(
                f"callgrind did not notice {MARK_FUNCTION} in {self.binary}: is it stripped?"
            ) from None
        written.unlink()
        missing = [name for name in self.inside if not ran(name, profile)]
        if missing:
            raise QapError(f"callgrind saw {self.binary} do nothing in {', '.join(missing)}")
        return total(profile)

    def __exit__(self, *_: object) -> None:
        self._owned.close()


def valgrind_argv(dump: Path, inside: Sequence[str]) -> list[str]:
    """The command that runs QEMU and writes `dump`.1, `dump`.2 and so on, a file for each mark.

    QEMU has no io_uring there: the library that takes it away is put beside `dump`.

    Args:
        inside: as in `Counted`.
    Raises:
        MissingError: there is no valgrind, or no gcc.
    """
    if shutil.which("valgrind") is None:
        raise MissingError("valgrind is missing: install valgrind")
    library = dump.with_name(f"{NO_IO_URING.stem}.so")
    compile_c(NO_IO_URING, library, *LIBRARY)
    return [
        # valgrind makes a temporary file, which stays if it is killed.
        "env",
        f"TMPDIR={dump.parent}",
        f"LD_PRELOAD={library}",
        "valgrind",
        "--tool=callgrind",
        "--quiet",
        # No FIFOs for a debugger in /tmp, which a kill would leave there.
        "--vgdb=no",
        f"--callgrind-out-file={dump}",
        f"--dump-before={MARK_FUNCTION}",
        *(f"--toggle-collect={name}" for name in inside),
    ]


def total(profile: str) -> int:
    """The instructions that a profile in callgrind's format counts in all.

    Raises:
        QapError: it does not say, or counts something else than instructions.
    """
    lines = profile.splitlines()
    if "events: Ir" not in lines:
        raise QapError("callgrind's profile does not count instructions (events: Ir)")
    said = [line.removeprefix(TOTALS).strip() for line in lines if line.startswith(TOTALS)]
    if len(said) != 1 or not said[0].isdecimal():
        raise QapError(f"callgrind's profile has {len(said)} totals, or one that is no number")
    return int(said[0])


def ran(name: str, profile: str) -> bool:
    """Whether a function is in a profile in callgrind's format, where each is named once."""
    return re.search(rf"^c?fn=\(\d+\) {re.escape(name)}$", profile, re.MULTILINE) is not None
