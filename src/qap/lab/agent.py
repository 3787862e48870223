"""What is done in L1 without a shell: in a millisecond, not a twentieth of a second."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from qap.host.errors import QapError

SCRIPT = Path(__file__).with_name("agent.pl")
ANSWER_S = 30.0


class NotDone(QapError):
    """L1 can't do that; str() says why."""


class Agent:
    """Asks agent.pl, which runs in L1.

    Args:
        sock: our end of its port; the caller closes it.
        lost: what to raise where the program has ended or does not answer; it is given the error.

    Attributes:
        timeout: seconds to wait for an answer; may be assigned.
    """

    def __init__(
        self, sock: socket.socket, lost: Callable[[Exception], Exception] = lambda error: error
    ) -> None:
        self.timeout = ANSWER_S
        self._sock = sock
        self._requests = sock.makefile("wb")
        self._answers = sock.makefile("rb")
        self._lost = lost

    def read(self, path: str) -> str:
        """What is in a file; raises as `ask` does."""
        return self.ask(f"read {path}")[0]

    def start(self, name: str, log: Path, argv: Sequence[str]) -> int:
        """Run a program, its output in a log; returns its process ID. Raises as `ask` does."""
        words = " ".join(quote(word) for word in (name, str(log), *argv))
        return int(self.ask(f"start {words}")[0])

    def kill(self, signal: str, pid: int) -> None:
        """Send a signal, by its name without SIG, to a process that may have ended."""
        self.ask(f"kill {signal} {pid}")

    def wait_nodes(self, paths: Sequence[str], timeout: float) -> None:
        """Wait until character devices are there.

        Raises:
            NotDone: they aren't after `timeout` seconds.
        """
        self.ask(f"nodes {timeout:g} {' '.join(paths)}")

    def ask(self, *requests: str) -> list[str]:
        """The answers to requests, as agent.pl takes them; it gets all of them at once.

        Raises:
            NotDone: one of them failed.
            TimeoutError: no answer came.
            QapError: the program has ended.
        """
        self._sock.settimeout(self.timeout)
        try:
            self._requests.write("".join(f"{request}\n" for request in requests).encode())
            self._requests.flush()
        except OSError:
            raise self._ended() from None
        answers = [self._answer(request) for request in requests]
        failed = [why for why, _ in answers if why]
        if failed:
            raise NotDone(failed[0])
        return [text for _, text in answers]

    def _answer(self, request: str) -> tuple[str, str]:
        try:
            line = self._answers.readline().decode()
        except TimeoutError:
            late = TimeoutError(f"waited {self.timeout:g} s for L1 to {request}")
            raise self._lost(late) from None
        except OSError:
            raise self._ended() from None
        if not line:
            raise self._ended()
        if line.startswith("- "):
            return line[2:].strip(), ""
        return "", self._answers.read(int(line)).decode(errors="replace")

    def _ended(self) -> Exception:
        return self._lost(QapError("the program that works for us in L1 has ended"))
