"""The dialogue with a guest: run a command there, get its output and exit status."""

import base64
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from qap.host.errors import QapError

PANIC = rb"(?:Kernel panic - not syncing|Oops:|BUG: unable to handle)[^\r\n]*[\r\n]"
# The last line of what the kernel says of it: registers, code and calls come before.
TRACE_END = rb"---\[ end [^\r\n]*[\r\n]"
TRACE_S, TRACE_LINES = 5.0, 40
COMMAND_S = 60.0
# How often a boot may last as long as its console may be silent.
BOOT_SILENCES = 5
DIALOGUE = ("qap-out ", "qap-end ")


class GuestPanic(QapError):
    """The guest's kernel panicked; the message has the kernel's text."""


class GuestLost(QapError):
    """The console closed: QEMU ended or the guest powered off."""


class GuestCommandError(QapError):
    """A command ended with a non-zero status in the guest."""


@dataclass(frozen=True)
class CommandOutput:
    """What a command printed (stdout and stderr) and its exit status."""

    output: str
    status: int

    def checked(self, script: str) -> str:
        """The output of a script that must succeed, without trailing white space.

        Raises:
            GuestCommandError: it ended with a non-zero status.
        """
        if self.status:
            raise GuestCommandError(
                f"in the guest, “{script.strip()}” ended with status {self.status}: "
                f"{self.output.strip()}"
            )
        return self.output.strip()


class Console:
    """A guest's console, connected to the /init of qap.machine.guest.initramfs.

    Args:
        sock: the other end of the guest's serial line.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._line = SocketSpawn(sock, timeout=COMMAND_S, maxread=65536)
        self._seen: list[bytes] = []

    def _expect(
        self, pattern: bytes, timeout: float, wanted: str, silences: int = 1
    ) -> re.Match[bytes]:
        """Wait for a pattern.

        Args:
            timeout: in seconds.
            silences: how often to wait that long, as long as something new is printed each time.
        """
        waits = 1
        try:
            while (index := self._wait(pattern, timeout, last=waits == silences)) is None:
                waits += 1
        except pexpect.TIMEOUT as exc:
            self._keep(self._line.before)
            raise TimeoutError(
                f"waited {waits * timeout:g} s for {wanted}; the console ends:\n{self.tail()}"
            ) from exc
        except (pexpect.EOF, OSError) as exc:
            self._keep(self._line.before)
            raise GuestLost(f"the console closed while qap waited for {wanted}") from exc
        self._keep(self._line.before)
        # types-pexpect types only spawns that decode; this one gives bytes.
        match = cast("re.Match[bytes]", self._line.match)
        self._keep(match[0])
        if index == 1:
            words = match[0].decode(errors="replace").strip()
            self._keep_trace()
            raise GuestPanic(f"the guest's kernel stopped: {words}", self.tail(TRACE_LINES))
        return match

    def _wait(self, pattern: bytes, timeout: float, *, last: bool) -> int | None:
        """0 if the pattern comes first, 1 if PANIC does, None if only other things are printed.

        Raises:
            pexpect.TIMEOUT: nothing new is printed, or it is the last wait.
        """
        seen = len(self._line.buffer)
        try:
            return self._line.expect([pattern, PANIC], timeout=timeout)
        except pexpect.TIMEOUT:
            if last or len(self._line.buffer) == seen:
                raise
            return None

    def _keep_trace(self) -> None:
        """Read what else a kernel says that stopped, as far as it comes."""
        try:
            self._line.expect(TRACE_END, timeout=TRACE_S)
        except (pexpect.TIMEOUT, pexpect.EOF, OSError):
            self._keep(self._line.before)
        else:
            self._keep(self._line.before)
            self._keep(cast("re.Match[bytes]", self._line.match)[0])

    def _keep(self, data: object) -> None:
        if isinstance(data, bytes):
            self._seen.append(data)

    def tail(self, lines: int = 12) -> str:
        """The last lines of the console, without those of the dialogue with /init."""
        text = b"".join(self._seen[-200:]).decode(errors="replace")
        kept = [line for line in text.splitlines() if line and not line.startswith(DIALOGUE)]
        return "\n".join(kept[-lines:])

    def text(self) -> str:
        """All that was printed so far; output of scripts is decoded."""
        kept = b"".join(self._seen).decode(errors="replace")

        def decoded(match: re.Match[str]) -> str:
            return base64.b64decode(match[1]).decode(errors="replace")

        return re.sub(r"qap-out (\S+)\r?\n?", decoded, kept)

    def wait_ready(self, silence: float) -> str:
        """Wait for the guest's /init; returns the kernel's release.

        A slow host makes a boot long, but what boots keeps printing.

        Args:
            silence: how many seconds may pass without anything new on the console. No boot may
                last BOOT_SILENCES times as long.
        Raises:
            TimeoutError: it didn't come up.
            GuestPanic: its kernel panicked.
            GuestLost: QEMU ended.
        """
        match = self._expect(rb"qap-ready (\S+)\r?\n", silence, "the guest to boot", BOOT_SILENCES)
        return match[1].decode()

    def send(self, script: str) -> None:
        """Have a shell script run in the guest, and don't wait: it may end the guest."""
        # A canonical tty line holds 4095 bytes, and so 3000 bytes of script.
        line = base64.b64encode(script.encode())
        if len(line) > 4000:
            raise QapError("a script for the guest is longer than 3000 bytes: split it")
        self._line.send(line + b"\n")

    def run(self, script: str, timeout: float = COMMAND_S) -> CommandOutput:
        """Run a shell script in the guest.

        Raises:
            TimeoutError: it didn't end in time.
            GuestPanic: the kernel panicked meanwhile.
            GuestLost: QEMU ended.
        """
        # Where QEMU is gone, what it left to read says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send(script)
        shown = script.strip().splitlines()[0][:60]
        match = self._expect(rb"qap-end (\d+)\r?\n", timeout, f"the guest to run “{shown}”")
        before = self._line.before
        assert isinstance(before, bytes)
        parts = re.findall(rb"qap-out (\S+)", before)
        output = b"".join(base64.b64decode(part) for part in parts)
        return CommandOutput(output.decode(errors="replace"), int(match[1]))

    def check(self, script: str, timeout: float = COMMAND_S) -> str:
        """Run a script that must succeed; returns its output without trailing white space.

        Raises:
            GuestCommandError: it ended with a non-zero status.
        """
        return self.run(script, timeout).checked(script)

    def close(self) -> None:
        self._sock.close()
