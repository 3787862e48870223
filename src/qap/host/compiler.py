"""The C compiler, for our own small programs and libraries."""

import subprocess
from pathlib import Path

from qap.host.errors import MissingError, QapError

COMPILED_S = 60
LIBRARY = ("-shared", "-fPIC")


def compile_c(source: Path, target: Path, *flags: str) -> None:
    """Compile and link a C file of ours; LIBRARY are the flags of a library to preload.

    Raises:
        MissingError: gcc is missing.
        QapError: it does not compile; `detail` has the compiler's words.
    """
    argv = ["gcc", *flags, "-o", str(target), str(source)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMPILED_S)
    except FileNotFoundError as exc:
        raise MissingError("gcc is missing: install gcc") from exc
    if done.returncode:
        raise QapError(f"{source.name} does not compile", done.stderr.strip())
