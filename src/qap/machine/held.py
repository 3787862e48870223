"""What a kernel holds for a process, as /proc shows it."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from qap.host.errors import QapError

NUMBERED = re.compile(r":\[\d+\]$")


@dataclass(frozen=True)
class Held:
    """What a process has.

    Attributes:
        fds: open file descriptors by what they refer to, such as “socket” or a path.
        threads: how many there are.
        resident: private resident memory in bytes (RssAnon of /proc/PID/status).
    """

    fds: Counter[str]
    threads: int
    resident: int


def held(pid: int) -> Held:
    """What a process of this computer has.

    Raises:
        OSError: it has ended.
    """
    process = Path(f"/proc/{pid}")
    targets = [_target(path) for path in (process / "fd").iterdir()]
    threads = len(list((process / "task").iterdir()))
    return Held(described(targets), threads, resident(process.joinpath("status").read_text()))


def described(targets: list[str]) -> Counter[str]:
    """What links in /proc/PID/fd refer to, without the numbers of inodes."""
    return Counter(NUMBERED.sub("", target) for target in targets)


def resident(status: str) -> int:
    """Private resident memory in bytes by /proc/PID/status.

    Raises:
        QapError: it says nothing of that, because the process has ended.
    """
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise QapError("/proc has no RssAnon for QEMU")


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except FileNotFoundError:
        return "closed meanwhile"
