"""A program in the terminal's foreground."""

import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qap.host.errors import QapError


def foreground(argv: Sequence[str], name: str) -> None:
    """Run a program on the terminal until it or its user ends it.

    The terminal is left as it was, should the program be killed while it is in raw mode. A
    qap.host.process.Process won't do: it has a session of its own.

    Args:
        name: of the program, for the error.
    Raises:
        QapError: it ended with another status than 0.
    """
    with _kept():
        ended = subprocess.run(["setpriv", "--pdeathsig", "KILL", "--", *argv], check=False)
    if ended.returncode:
        raise QapError(f"{name} ended with status {ended.returncode}: see what it printed")


@contextmanager
def _kept() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
