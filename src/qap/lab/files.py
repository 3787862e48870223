"""Files of L1, looked at without a shell: in a millisecond, not a tenth of a second."""

import socket
from pathlib import Path

from qap.host.errors import QapError

SCRIPT = Path(__file__).with_name("files.pl")
ANSWER_S = 30.0
ENDED = "the program that looks at L1's files has ended"


class NoFile(QapError):
    """L1 can't do that with a file; str() says why."""


class L1Files:
    """Asks files.pl, which runs in L1.

    Args:
        sock: our end of its port; the caller closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(ANSWER_S)
        self._requests = sock.makefile("wb")
        self._answers = sock.makefile("rb")

    def read(self, path: str) -> str:
        """What is in a file; raises as `ask` does."""
        return self.ask(f"read {path}")[0]

    def ask(self, *requests: str) -> list[str]:
        """The answers to requests, as files.pl takes them; it gets all of them at once.

        Raises:
            NoFile: one of them failed.
            TimeoutError: no answer came.
            QapError: the program has ended.
        """
        try:
            self._requests.write("".join(f"{request}\n" for request in requests).encode())
            self._requests.flush()
        except OSError:
            raise QapError(ENDED) from None
        answers = [self._answer(request) for request in requests]
        failed = [why for why, _ in answers if why]
        if failed:
            raise NoFile(failed[0])
        return [text for _, text in answers]

    def _answer(self, request: str) -> tuple[str, str]:
        try:
            line = self._answers.readline().decode()
        except TimeoutError:
            raise TimeoutError(f"waited {ANSWER_S:g} s for L1 to {request}") from None
        if not line:
            raise QapError(ENDED)
        if line.startswith("- "):
            return line[2:].strip(), ""
        return "", self._answers.read(int(line)).decode(errors="replace")
