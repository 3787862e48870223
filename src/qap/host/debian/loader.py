"""Running a program from an unpacked package with the libraries that it was built for."""

from pathlib import Path

HOST = "amd64"
# Where the packages of this architecture have the dynamic loader and the libraries.
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
TRIPLET = "x86_64-linux-gnu"


def loader_argv(root: Path, *folders: str) -> list[str]:
    """What to put before a program of the host's architecture, unpacked into `root`.

    The program gets the libraries from `root`, which may be newer than the system's.

    Args:
        folders: more folders with libraries, relative to the usual one.
    """
    libraries = root / "usr/lib" / TRIPLET
    path = ":".join(str(libraries / folder) for folder in ("", *folders))
    return [str(root / LOADER), "--library-path", path]
