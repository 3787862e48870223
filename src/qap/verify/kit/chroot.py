"""A Debian system in a folder, for what has to be installed: a package is built or used there.

Nothing of it outlives its owner. Each program runs in a mount and a PID namespace of its own, so
mounts and daemons end with it. The computer's apt is neither read for lists nor changed.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest

from qap.fork.build import Build
from qap.host.debian.apt import KEYRING, mirror
from qap.host.errors import QapError
from qap.host.lock import locked
from qap.host.paths import Project, cache
from qap.host.process import Process
from qap.host.wait import poll_until

MAKE_S = 1800.0
REMOVE_S = 60.0
TAIL_LINES = 40
# All that a program there gets of the environment, but for proxies.
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
}
# What apt of this computer is told of the way to its mirror.
CONNECTION = re.compile(r"^(Acquire::(?:https?::|Check-|ForceIP|Retries).*);$", re.MULTILINE)
OPTIONS = ('APT::Get::Assume-Yes "true"', 'APT::Install-Recommends "false"')
# A mount namespace for a program and what it starts.
OWN_MOUNTS = ("unshare", "--mount")
# The first process there is killed with unshare, and with it all others.
OWN = (*OWN_MOUNTS, "--pid", "--fork", "--kill-child=KILL", "--")
# Arguments: the folder of the system; folders, each with where to have it; "--" and a command.
ENTER = """\
root=$1; shift
mount -t proc proc "$root/proc"
mount -t devpts devpts "$root/dev/pts"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"""


def needs_root() -> None:
    """Skip the test if it may not make a chroot."""
    if os.geteuid():
        pytest.skip("this makes a chroot and mounts folders in it: run it as root")


@dataclass(frozen=True)
class InstalledBuild(Build):
    """QEMU as a package has it.

    Args:
        emulator: runs it from outside of the system that has the package.
    """

    emulator: Path = Path()

    def path(self, tool: str) -> Path:
        return self.emulator


@dataclass(frozen=True)
class Chroot:
    """A Debian system in a folder.

    Args:
        root: the folder.
        logs: a folder for what programs print.
        binds: folders of this computer, each with where the system has it.
        environment: more of it, for every program.
    """

    root: Path
    logs: Path
    binds: Mapping[Path, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def made(
        cls,
        project: Project,
        logs: Path,
        suite: str,
        *options: str,
    ) -> Iterator["Chroot"]:
        """A fresh system from the Debian archive, with its source packages in apt's sources.

        Args:
            options: of mmdebstrap, such as "--variant=buildd" or "--include=ccache".
        Raises:
            Unavailable: apt on this computer lists no Debian archive.
            QapError: the system could not be made.
        """
        sources = [
            f"{kind} [signed-by={KEYRING}] {mirror()} {suite} main" for kind in ("deb", "deb-src")
        ]
        settings = [f"--aptopt={value}" for value in (*OPTIONS, *_connection())]
        # /tmp may be in memory, and a build takes gigabytes.
        with _held(project.qemu / ".unpack-system") as root:
            argv = ["mmdebstrap", "--mode=root", "--format=directory", *options, *settings]
            argv += ["--dpkgopt=force-unsafe-io", "--skip=cleanup/apt/lists"]
            _finished([*OWN, *argv, suite, str(root), *sources], logs / "mmdebstrap.log", MAKE_S)
            yield cls(root, logs)

    def with_ccache(self, folder: Path) -> Self:
        """The same system, where ccache, which it has, keeps its objects in a folder outside."""
        # Debian's ccache has links for gcc, and QEMU's configure takes cc.
        for name in ("cc", "c++"):
            self.inside(f"/usr/lib/ccache/{name}").symlink_to("../../bin/ccache")
        environment = {
            **self.environment,
            "PATH": f"/usr/lib/ccache:{ENVIRONMENT['PATH']}",
            "CCACHE_DIR": "/ccache",
            "CCACHE_MAXSIZE": "2G",
        }
        return replace(self, binds={**self.binds, folder: "/ccache"}, environment=environment)

    def run(self, name: str, commands: str, folder: str, timeout: float) -> str:
        """Run commands of bash, up to the first that fails; returns what they print.

        Args:
            name: of the log.
            folder: where they run; made if it is missing.
        Raises:
            QapError: one failed; the message has the end of what it printed.
            TimeoutError: they still run after `timeout` seconds.
        """
        self.inside(folder).mkdir(parents=True, exist_ok=True)
        moved = f"cd {shlex.quote(folder)}\n{commands}"
        log = self.logs / f"{name}.log"
        _finished([*OWN, *self._enter(self.binds, "bash", "-euxc", moved)], log, timeout)
        return log.read_text(errors="replace")

    def program(self, path: str, target: Path) -> Path:
        """A program outside that runs one of the system, in the process that starts it.

        It sees the temporary files of this computer and the cache of qap under their own names.

        Args:
            path: the program inside.
            target: is made.
        """
        shared = {each: str(each) for each in (Path(tempfile.gettempdir()), cache())}
        argv = shlex.join([*OWN_MOUNTS, "--", *self._enter({**self.binds, **shared}, path)])
        target.write_text(f'#!/bin/sh\nexec {argv} "$@"\n')
        target.chmod(0o755)
        return target

    def inside(self, path: str) -> Path:
        """A path of the system, as this computer has it."""
        return self.root / path.lstrip("/")

    def _enter(self, binds: Mapping[Path, str], *command: str) -> list[str]:
        proxies = {name: value for name, value in os.environ.items() if name.endswith("_proxy")}
        given = {**proxies, **ENVIRONMENT, **self.environment}
        words = [word for outer, inner in binds.items() for word in (str(outer), inner)]
        set_up = [f"{name}={value}" for name, value in given.items()]
        argv = ["sh", "-euc", ENTER, "sh", str(self.root), *words, "--"]
        return [*argv, "env", "-i", *set_up, *command]


@contextmanager
def _held(home: Path) -> Iterator[Path]:
    """A folder for one process at a time, which makes it.

    It is removed at the end of the context. If its owner was killed, the next one removes it.
    """
    root = home / "root"

    def removed() -> bool | None:
        shutil.rmtree(root, ignore_errors=True)
        return None if root.exists() else True

    def remove() -> None:
        # Programs that were killed may write until they are gone.
        poll_until(removed, REMOVE_S, lambda: f"{root} to be removed")

    with locked(home, lambda: print("waits for another system to end", flush=True)):
        remove()
        try:
            yield root
        finally:
            remove()


def _connection() -> list[str]:
    """The proxies of this computer's apt, and the like, as options."""
    said = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True
    ).stdout
    return CONNECTION.findall(said)


def _finished(argv: Sequence[str], log: Path, timeout: float) -> None:
    """Run a program to its end, and say how long it took (pytest -s shows it).

    Raises:
        QapError: it failed.
        TimeoutError: it still runs after `timeout` seconds.
    """
    start = time.monotonic()
    print(f"{log.stem}: see {log}", flush=True)
    with Process(argv, log=log) as process:
        status = process.wait(timeout)
    print(f"{log.stem}: {time.monotonic() - start:.0f} s", flush=True)
    if status:
        raise QapError(f"{log.stem} ended with status {status}:\n{process.tail(TAIL_LINES)}")
