"""The kernel's source as Debian packages it, and the kernel's makefiles."""

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from qap.host.debian.package import unpack
from qap.host.debian.sums import check
from qap.host.errors import MissingError, failure
from qap.host.process import reading

SETTINGS = {
    "KBUILD_BUILD_USER": "qap",
    "KBUILD_BUILD_HOST": "qap",
    "KBUILD_BUILD_TIMESTAMP": "2025-01-01",
}
ERROR = re.compile(
    r"\berror: |ERROR: |undefined reference|can't open|^make.*\*\*\*|: not found"
    r"|failed to execute|No space left"
)
CITED = 5


@dataclass(frozen=True)
class Toolchain:
    """What the kernel's makefiles must be told to compile for an architecture.

    Attributes:
        arch: their name of it.
        prefix: of the compiler and its companions.
        image: the file to boot.
    """

    arch: str
    prefix: str
    image: str

    @property
    def compiler(self) -> str:
        return f"{self.prefix}gcc"

    @property
    def version(self) -> str:
        """The compiler's name and version, in its words.

        Raises:
            MissingError: it is not installed.
        """
        try:
            done = subprocess.run(
                [self.compiler, "--version"], capture_output=True, text=True, check=True
            )
        except FileNotFoundError as exc:
            package = f"gcc-{self.prefix.rstrip('-')}".replace("_", "-")
            raise MissingError(f"{self.compiler} is missing: install {package}") from exc
        return done.stdout.splitlines()[0]

    @property
    def words(self) -> list[str]:
        """Variables for make."""
        ccache = "ccache " if shutil.which("ccache") else ""
        return [
            f"ARCH={self.arch}",
            f"CROSS_COMPILE={self.prefix}",
            f"CC={ccache}{self.compiler}",
        ]


# By Debian's name of the architecture.
TOOLCHAINS = {
    "amd64": Toolchain("x86", "x86_64-linux-gnu-", "arch/x86/boot/bzImage"),
    "s390x": Toolchain("s390", "s390x-linux-gnu-", "arch/s390/boot/bzImage"),
}


def unpack_source(package: Path, scratch: Path, folder: Path, *words: str) -> None:
    """Unpack a package such as linux-source-5.10's; all of it is read, whatever is wanted.

    Args:
        scratch: for the package's content.
        folder: for the source; it is made.
        words: more for tar, such as the files that are wanted.
    Raises:
        QapError: the package is damaged, or lacks a file, or the disk is full.
    """
    check(package)
    archive = f"./usr/src/{package.name.partition('_')[0]}.tar.xz"
    unpack(package, scratch, [archive])
    folder.mkdir()
    argv = ["tar", "-xf", str(scratch / archive), *words]
    run(argv, folder, f"{package.name} can't be unpacked")


def make(
    folder: Path,
    *words: str,
    failed: str,
    settings: Mapping[str, str] = MappingProxyType({}),
    each: Callable[[str], None] = lambda line: None,
) -> None:
    """Run the kernel's make in a folder.

    Args:
        failed: the error's message.
        settings: more environment variables.
        each: called with each line that it prints.
    Raises:
        QapError: it failed, or there is no make; cites its first errors.
    """
    argv = ["setpriv", "--pdeathsig", "TERM", "--", "make", f"-j{os.cpu_count()}", *words]
    env = {**os.environ, **settings, "LC_ALL": "C", **SETTINGS}
    errors: list[str] = []
    last: deque[str] = deque(maxlen=CITED)
    with reading(argv, env=env, cwd=folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            each(line)
            last.append(line.rstrip("\n"))
            if ERROR.search(line):
                errors.append(last[-1])
        status = process.wait()
    if status:
        raise failure(failed, "\n".join(errors[:CITED] or last))


def run(argv: list[str], cwd: Path, failed: str) -> None:
    """Run a program; raises QapError, with `failed` as its message, if it fails."""
    # xz takes every processor, if tar runs it.
    env = {**os.environ, "XZ_DEFAULTS": "-T0", "LC_ALL": "C"}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise failure(failed, done.stderr + done.stdout)
