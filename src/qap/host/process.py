"""A child process that ends when its owner's context ends, or when the owner is killed."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from qap.host.errors import Interrupted, MissingError

GRACE_S = 5.0
ENDED = os.WEXITED | os.WNOWAIT

_live: set["Process"] = set()
_guard = threading.Lock()
_stopping = False


def stop_all() -> None:
    """Kill every child and let no new one start; for an interrupt while threads run."""
    global _stopping  # noqa: PLW0603 # one process, one interrupt
    with _guard:
        _stopping = True
        children = list(_live)
    for child in children:
        child.kill()


class RunningProgram(Protocol):
    """What is asked of a program that runs, here or in a guest; see Process."""

    argv: list[str]

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    def tail(self, lines: int = 12) -> str: ...

    def wait(self, timeout: float) -> int: ...

    def kill(self) -> None: ...


def last_lines(log: Path, lines: int) -> str:
    """The end of what a program printed into its log; "" if it has none yet."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


class Process:
    """A running program, its output in a log file.

    The child leads a session of its own, so that a Ctrl-C in the terminal reaches
    only the owner, which then ends it. If the owner is killed before it can do so,
    the kernel kills the child (prctl(2), PR_SET_PDEATHSIG, through setpriv(1)).

    Args:
        argv: program and arguments.
        log: file that collects stdout and stderr.
        fds: file descriptors that the child inherits under their own numbers.
        env: variables added to the environment.
    Raises:
        MissingError: the program does not exist.
        Interrupted: the user has interrupted qap.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = [str(word) for word in argv]
        self.log = log
        if shutil.which(self.argv[0]) is None:
            raise MissingError(f"{self.argv[0]} is missing or is no program")
        # If the owner dies before PR_SET_PDEATHSIG is set, the shell sees another parent.
        owned = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()), *self.argv]
        guarded = ["setpriv", "--pdeathsig", "KILL", "--", *owned]
        with log.open("wb") as out, _guard:
            if _stopping:
                raise Interrupted
            try:
                self.process = subprocess.Popen(
                    guarded,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    pass_fds=tuple(fds),
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
            except FileNotFoundError as exc:
                raise MissingError("setpriv is missing: install util-linux") from exc
            _live.add(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs; this does not reap it, only `end` does."""
        if self.process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, ENDED | os.WNOHANG) is None

    def tail(self, lines: int = 12) -> str:
        """The last lines that the program printed."""
        return last_lines(self.log, lines)

    def wait(self, timeout: float) -> int:
        """Wait for the program to end by itself; returns its exit status.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        if self.process.returncode is None:
            if not self._ends_within(timeout):
                raise TimeoutError(
                    f"waited {timeout:g} s for {Path(self.argv[0]).name} (pid {self.pid}) to exit"
                )
            result = os.waitid(os.P_PID, self.pid, ENDED)
            assert result is not None
            exited = result.si_code == os.CLD_EXITED
            return result.si_status if exited else -result.si_status
        return self.process.returncode

    def _ends_within(self, timeout: float) -> bool:
        pidfd = os.pidfd_open(self.pid)
        try:
            return bool(select.select([pidfd], [], [], timeout)[0])
        finally:
            os.close(pidfd)

    def end(self) -> None:
        """Send SIGTERM, then kill the program and its children; returns once it is gone."""
        if self.process.returncode is None:
            if self.alive:
                self._signal(signal.SIGTERM)
                self._ends_within(GRACE_S)
            # It is not reaped yet, so no other process group can have its number.
            self.kill()
            self.process.wait()
        with _guard:
            _live.discard(self)

    def kill(self) -> None:
        """Kill the program and its children, without waiting until they are gone."""
        if self.process.returncode is None:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


@contextlib.contextmanager
def reading(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """A program whose output, errors with it, is read while it runs; terminated with the context.

    Raises:
        FileNotFoundError: there is no such program.
    """
    process = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
