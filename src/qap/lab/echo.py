"""Programs in L1 that send back what a guest of L2 sends to the kernel's devices."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qap.lab.l1 import L1, PERL

SCRIPT = Path(__file__).with_name("echo.pl")
READY_S = 20.0


@contextmanager
def echo(l1: L1, kind: str, what: str) -> Iterator[None]:
    """An echo until the context ends, as echo.pl says: of frames, or on connections.

    Raises:
        GuestCommandError: it did not come up.
    """
    script = l1.folder / SCRIPT.name
    shutil.copy(SCRIPT, script)
    ready = f"/run/{l1.name('ready')}"
    l1.check(f"mkfifo {ready}")
    try:
        with l1.program(PERL, script, ready, kind, what):
            l1.check(f"timeout {READY_S:g} head -n 1 {ready}", READY_S + 10)
            yield
    finally:
        l1.check(f"rm {ready}")
