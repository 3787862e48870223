"""What an episode did to QEMU, and the signature by which failures of a kind are one."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.machine.machine import QemuDied
from qap.measure.hostile.judge import STRAY, Verdict

LAST_STEPS = 12
LAST_LINES = 12
GDB_S = 60.0
SAMPLES = 2
_ASSERTION = re.compile(
    r"(?P<at>\w+): Assertion `(?P<what>.*)' failed"
    r"|(?P<at2>\w+): (?:assertion failed:? \((?P<what2>.*)\)|(?P<what3>code should not be reached))"
)
_SUMMARY = re.compile(r"SUMMARY: (\w+Sanitizer: .*)|\S+: runtime error: (.*)")
# A function's name, without what the compiler appended to it.
_FRAME = re.compile(r"^#\d+ +(?:0x[0-9a-f]+ in )?(\w+)(?:\.[\w.]+)? ?\(", re.MULTILINE)
_TRACED = re.compile(r"^ +#\d+ 0x[0-9a-f]+ in (\w+)", re.MULTILINE)
_NUMBER = re.compile(r"0x[0-9a-f]+|\b\d+\b")
ALLOCATORS = (
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_",
    "g_",
    "qemu_",
    "__",
    "virtqueue_",
)
# Frames that say nothing of where a thread is.
DULL = (
    "raise",
    "abort",
    "_",
    "g_",
    "pthread",
    "syscall",
    "poll",
    "ppoll",
    "nanosleep",
    "memcpy",
    "memmove",
    "memset",
    "futex",
    "lll_",
    "bql_",
    "fdmon_",
    "aio_",
    "qio_channel_",
    "qemu_chr_",
    "tcp_chr_",
    "qemu_cond",
    "qemu_mutex",
    "qemu_event",
)


@dataclass(frozen=True)
class Failure:
    """A failed episode.

    Attributes:
        episode: its name; SEED:NUMBER,NUMBER where it is the last in a QEMU that carried out
            others before it.
        target: what it drove.
        signature: groups failures.
        said: what QEMU, or the judge, said.
        trace: the last things that the driver did.
        steps: the numbers of the only steps of the last one; all if empty.
        output: what QEMU printed, if it ended.
    """

    episode: str
    target: str
    signature: str
    said: str
    trace: Sequence[str]
    steps: tuple[int, ...] = ()
    output: str = ""

    @property
    def options(self) -> str:
        """The options of `qap soak hostile` that repeat it."""
        steps = f" --steps {','.join(map(str, self.steps))}" if self.steps else ""
        return f"--episode {self.episode}{steps}"


def signature(error: Exception, device: str, place: str = "") -> str:
    """The signature of what ended an episode.

    Args:
        device: the type that was driven.
        place: where QEMU was, as far as a debugger said.
    """
    if isinstance(error, QemuDied):
        return _ended(error, place)
    if isinstance(error, Verdict):
        summary = _SUMMARY.search(str(error))
        if error.kind == STRAY:
            return f"{STRAY} of {device}"
        if leak := _leak(str(error)):
            return f"leak in {leak}"
        return _plain(f"{error.kind}: {summary[0] if summary else error}")
    if isinstance(error, TimeoutError):
        return f"hang in {place}" if place else f"hang: {_plain(str(error))}"
    return f"{type(error).__name__}: {_plain(str(error))}"


def _ended(died: QemuDied, place: str) -> str:
    summary = _SUMMARY.search(died.output)
    if summary:
        return _plain(summary[0])
    found = _ASSERTION.search(died.output)
    if found:
        what = found["what"] or found["what2"] or found["what3"]
        return f"assertion {what} in {found['at'] or found['at2']}"
    if died.status < 0:
        return f"signal {-died.status}" + (f" in {place}" if place else "")
    last = died.said.splitlines()[-1:] or ["it said nothing"]
    return f"exit {died.status}: {_plain(last[0])}"


def _leak(report: str) -> str:
    """The function that allocated the first of the leaks in a report; "" if there is none."""
    _, _, leak = report.partition("leak of ")
    names = _TRACED.findall(leak.partition("\n\n")[0])
    return next((name for name in names if not name.startswith(ALLOCATORS)), "")


def _plain(text: str) -> str:
    """A text without what differs from one time to the next."""
    first = text.splitlines()[0] if text else ""
    return _NUMBER.sub("N", first)[:160]


def hang_place(pid: int) -> str:
    """Where the main thread of a process is, the same in several looks; "" if unknown."""
    stacks = [_stack(pid) for _ in range(SAMPLES)]
    common: list[str] = []
    for frames in zip(*(reversed(stack) for stack in stacks), strict=False):
        if len(set(frames)) > 1:
            break
        common.append(frames[0])
    return next((name for name in reversed(common) if not name.startswith(DULL)), "")


def _stack(pid: int) -> list[str]:
    argv = ["gdb", "-batch", "-nx", "-p", str(pid), "-ex", "thread 1", "-ex", "bt 40"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=GDB_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _FRAME.findall(said.stdout)


def crash_place(backtrace: str) -> str:
    """The function in which a debugger saw a signal; "" if it didn't."""
    _, _, after = backtrace.partition("received signal")
    return next((name for name in _FRAME.findall(after) if not name.startswith(DULL)), "")


def last_lines(error: Exception) -> str:
    """The end of what is known of an error."""
    detail = getattr(error, "detail", "") if isinstance(error, QapError) else ""
    return "\n".join(f"{error}\n{detail}".strip().splitlines()[-LAST_LINES:])
