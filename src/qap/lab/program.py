"""A program that runs in L1."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qap.host.errors import QapError
from qap.host.process import last_lines

if TYPE_CHECKING:
    from qap.lab.l1 import L1

END_S = 10.0
# What a shell adds to the number of the signal that ended a program.
SIGNALLED = 128


class L1Program:
    """A program in L1, its output in a log file; killed when its context ends.

    Args:
        l1: where it runs.
        argv: program and arguments, as L1 sees their paths.
        name: for its files; must differ from other programs' names in this L1.
        log: collects stdout and stderr; below `l1.folder`.
    """

    def __init__(self, l1: "L1", argv: Sequence[str | Path], name: str, log: Path) -> None:
        self.l1 = l1
        self.argv = [str(word) for word in argv]
        self.name = name
        self.log = log
        self.ended: Callable[[], None] = lambda: None
        self._over = threading.Event()
        self._status = 0
        l1.programs[name] = self
        self._pid = l1.agent.start(name, log, self.argv)

    @property
    def pid(self) -> int:
        """Its process ID in L1."""
        return self._pid

    @property
    def alive(self) -> bool:
        return not self._over.is_set()

    def over(self, status: int) -> None:
        """L1 tells that it ended; `status` is as a shell has it."""
        self._status = status if status <= SIGNALLED else SIGNALLED - status
        self._over.set()
        self.ended()

    def tail(self, lines: int = 12) -> str:
        """The last lines that the program printed."""
        return last_lines(self.log, lines)

    def wait(self, timeout: float) -> int:
        """Wait for the program to end by itself; returns its exit status, negative for a signal.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        if not self._over.wait(timeout):
            raise TimeoutError(
                f"waited {timeout:g} s for {Path(self.argv[0]).name} (pid {self.pid} in L1) to exit"
            )
        return self._status

    def kill(self) -> None:
        """Kill it, without waiting until it is gone."""
        self.send_signal("KILL")

    def send_signal(self, name: str) -> None:
        """Send a signal by its name without SIG, if the program still runs."""
        if self.alive:
            self.l1.agent.kill(name, self.pid)

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        with contextlib.suppress(QapError, TimeoutError):
            self.kill()
            self.wait(END_S)
        self.l1.programs.pop(self.name, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
