"""Our own programs for guests: one C file each, linked statically."""

import hashlib
import tempfile
from pathlib import Path

from qap.host.compiler import compile_c
from qap.host.errors import UsageError
from qap.host.lock import locked
from qap.host.paths import cache

HERE = Path(__file__).parent
# Debian's name of the architecture that gcc compiles for: qap runs on no other.
HOST = "amd64"
FLAGS = ("-O2", "-static")


def program(name: str, architecture: str) -> Path:
    """A program for guests, compiled once and kept in the cache.

    Args:
        name: of the C file in this folder, without its suffix.
        architecture: Debian's name of the guest's.
    Raises:
        UsageError: the guest has another architecture than the host.
        MissingError: gcc is missing.
        QapError: it does not compile; `detail` has the compiler's words.
    """
    if architecture != HOST:
        raise UsageError(f"{name} is compiled for {HOST} guests only, not for {architecture}")
    source = HERE / f"{name}.c"
    state = hashlib.sha256(" ".join(FLAGS).encode() + source.read_bytes())
    home = cache() / "programs"
    target = home / f"{name}-{architecture}-{state.hexdigest()[:16]}"
    with locked(home):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                fresh = Path(scratch) / name
                compile_c(source, fresh, *FLAGS)
                fresh.rename(target)
    return target
