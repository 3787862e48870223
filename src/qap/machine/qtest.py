"""QTest: QEMU's memory, ports, clock and interrupt lines driven over a socket.

`-accel qtest` keeps the CPUs from running and gives the virtual clock to the client;
with another accelerator everything but the clock works.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from qap.host.errors import QapError
from qap.machine import qtest_command as command
from qap.machine.qtest_command import QtestCommand
from qap.machine.qtest_error import QemuHangs, QtestError, QtestLost, shortened

__all__ = ["IrqChange", "QemuHangs", "Qtest", "QtestError", "QtestLost"]

ANSWER_S = 30.0
CLOSED = "QEMU closed the qtest session"
CHUNK = 1 << 16
QUOTED = 6
T = TypeVar("T")


@dataclass(frozen=True)
class IrqChange:
    """An intercepted interrupt line changed.

    Attributes:
        number: of the GPIO within its list.
        raised: whether it went up.
    """

    number: int
    raised: bool


class Qtest:
    """A QTest session on a connected stream socket; for one thread at a time.

    The methods named as a command of the protocol send it and wait for its answer;
    `qap.machine.qtest_command` says what each takes and gives. Any of them raises:

    * QtestError: QEMU refused it.
    * QtestLost: QEMU ended, or an earlier answer never came.
    * QemuHangs: no answer in time; says which command is unanswered.

    Args:
        sock: the client's end; the session closes it.
        timeout: seconds to wait for an answer; may be assigned later.
        lost: what to raise where QEMU closes the session; it is given a QtestLost.

    Attributes:
        timeout: as given; it may be changed.
        unanswered: a command had no answer in time.
        irqs: changes of intercepted interrupts not yet taken, oldest first.
    """

    def __init__(
        self,
        sock: socket.socket,
        timeout: float = ANSWER_S,
        lost: Callable[[QapError], QapError] = lambda error: error,
    ) -> None:
        self._closed = lost
        sock.setblocking(False)
        self._sock = sock
        self.timeout = timeout
        self._poll = select.poll()
        self._rest = b""
        self._lost = ""
        self.unanswered = False
        self._quoted: deque[str] = deque(maxlen=QUOTED)
        self._held: list[QtestCommand[Any]] | None = None
        self.irqs: deque[IrqChange] = deque()

    def run(self, command: QtestCommand[T]) -> T:
        """Send a command; returns its answer."""
        return self.run_all([command])[0]

    def run_all(self, commands: Sequence[QtestCommand[T]]) -> list[T]:
        """Send commands without waiting in between; returns their answers in order.

        QEMU runs them one after another, those after a refused one, too.

        Raises:
            QtestError: QEMU refused at least one; the error is the first one's.
        """
        if self._held is not None:
            return self._hold(self._held, commands)
        answers = self._exchange(commands)
        results = []
        for index, (sent, answer) in enumerate(zip(commands, answers, strict=True)):
            try:
                results.append(sent.parse(_accepted(answer)))
            except ValueError:
                self._quote(commands[: index + 1], answers)
                raise QtestError(sent.line, answer, "\n".join(self._quoted)) from None
        self._quote(commands, answers)
        return results

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Send what is written in this context at its end, so that QEMU gets it in one piece.

        Raises:
            ValueError: something is read in it.
        """
        held: list[QtestCommand[Any]] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
        if held:
            self.run_all(held)

    @staticmethod
    def _hold(held: list[QtestCommand[Any]], commands: Sequence[QtestCommand[T]]) -> list[T]:
        for wanted in commands:
            if wanted.answers:
                raise ValueError(f"{shortened(wanted.line)} has an answer to wait for")
        held += commands
        return [wanted.parse("") for wanted in commands]

    def wait_irq(self, number: int, *, raised: bool = True, timeout: float = ANSWER_S) -> None:
        """Wait until an intercepted line changes; earlier changes are dropped.

        Args:
            number: of the GPIO within its list.
            raised: wait until it goes up, or else down.
            timeout: in seconds.
        Raises:
            TimeoutError: it didn't.
        """
        wanted = IrqChange(number, raised)
        what = f"interrupt {number} to be {'raised' if raised else 'lowered'}"
        deadline = time.monotonic() + timeout
        while True:
            while self.irqs:
                if self.irqs.popleft() == wanted:
                    return
            try:
                self._wait(select.POLLIN, deadline)
            except TimeoutError:
                raise TimeoutError(f"waited {timeout:g} s for {what}") from None
            self._expect_none(self._received())

    def lost(self, error: QapError) -> QapError:
        """What to raise where another connection to the same QEMU was closed; see `lost` above.

        Args:
            error: for a QEMU that still runs.
        """
        return self._closed(error)

    def _exchange(self, commands: Sequence[QtestCommand[Any]]) -> list[str]:
        if self._lost == CLOSED:
            raise self._closed(QtestLost(CLOSED))
        if self._lost:
            raise QtestLost(self._lost)
        left = memoryview("".join([f"{sent.line}\n" for sent in commands]).encode())
        answers: list[str] = []
        deadline = time.monotonic() + self.timeout
        try:
            while left or len(answers) < len(commands):
                if left:
                    left = left[self._send(left[:CHUNK]) :]
                events = select.POLLIN | (select.POLLOUT if left else 0)
                if self._wait(events, deadline) & ~select.POLLOUT:
                    answers += self._received()
        except TimeoutError:
            asked = commands[len(answers)].line
            said = f"waited {self.timeout:g} s for the answer to qtest {shortened(asked)}"
            self.unanswered = True
            self._lost = f"the qtest session is out of step: {said}"
            raise QemuHangs(said) from None
        self._expect_none(answers[len(commands) :])
        return answers

    def _expect_none(self, answers: Sequence[str]) -> None:
        if answers:
            raise self._fail(f"QEMU sent {answers[0]!r} without being asked")

    def _send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._closed(self._fail(CLOSED)) from exc

    def _wait(self, events: int, deadline: float) -> int:
        self._poll.register(self._sock, events)
        ready = self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise TimeoutError
        return ready[0][1]

    def _received(self) -> list[str]:
        """Whole lines that came, interrupt changes taken out."""
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError as exc:
            raise self._closed(self._fail(CLOSED)) from exc
        if not data:
            raise self._closed(self._fail(CLOSED))
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        lines = whole.decode().split("\n") if newline else []
        if b"IRQ " not in whole:
            return lines
        for line in lines:
            if line.startswith("IRQ "):
                _, change, number = line.split(" ")
                self.irqs.append(IrqChange(int(number), change == "raise"))
        return [line for line in lines if not line.startswith("IRQ ")]

    def _fail(self, why: str) -> QtestLost:
        self._lost = why
        return QtestLost(why, "\n".join(self._quoted))

    def _quote(self, commands: Sequence[QtestCommand[Any]], answers: Sequence[str]) -> None:
        first = max(0, len(commands) - QUOTED // 2)
        for sent, answer in zip(commands[first:], answers[first:], strict=False):
            self._quoted += [f"> {shortened(sent.line)}", f"< {shortened(answer)}"]

    def close(self) -> None:
        """End the session; safe to repeat."""
        self._lost = self._lost or "the qtest session was closed"
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def readb(self, address: int) -> int:
        return self.run(command.readb(address))

    def readw(self, address: int) -> int:
        return self.run(command.readw(address))

    def readl(self, address: int) -> int:
        return self.run(command.readl(address))

    def readq(self, address: int) -> int:
        return self.run(command.readq(address))

    def writeb(self, address: int, value: int) -> None:
        self.run(command.writeb(address, value))

    def writew(self, address: int, value: int) -> None:
        self.run(command.writew(address, value))

    def writel(self, address: int, value: int) -> None:
        self.run(command.writel(address, value))

    def writeq(self, address: int, value: int) -> None:
        self.run(command.writeq(address, value))

    def inb(self, port: int) -> int:
        return self.run(command.inb(port))

    def inw(self, port: int) -> int:
        return self.run(command.inw(port))

    def inl(self, port: int) -> int:
        return self.run(command.inl(port))

    def outb(self, port: int, value: int) -> None:
        self.run(command.outb(port, value))

    def outw(self, port: int, value: int) -> None:
        self.run(command.outw(port, value))

    def outl(self, port: int, value: int) -> None:
        self.run(command.outl(port, value))

    def read(self, address: int, size: int) -> bytes:
        return self.run(command.read(address, size))

    def write(self, address: int, data: bytes) -> None:
        self.run(command.write(address, data))

    def b64read(self, address: int, size: int) -> bytes:
        return self.run(command.b64read(address, size))

    def b64write(self, address: int, data: bytes) -> None:
        self.run(command.b64write(address, data))

    def memset(self, address: int, size: int, value: int) -> None:
        self.run(command.memset(address, size, value))

    def clock_step(self, nanoseconds: int | None = None) -> int:
        return self.run(command.clock_step(nanoseconds))

    def clock_set(self, nanoseconds: int) -> int:
        return self.run(command.clock_set(nanoseconds))

    def irq_intercept_in(self, path: str) -> None:
        self.run(command.irq_intercept_in(path))

    def irq_intercept_out(self, path: str, name: str | None = None) -> None:
        self.run(command.irq_intercept_out(path, name))

    def set_irq_in(self, path: str, name: str | None, number: int, level: int) -> None:
        self.run(command.set_irq_in(path, name, number, level))

    def endianness(self) -> str:
        return self.run(command.endianness())


def _accepted(answer: str) -> str:
    if answer != "OK" and not answer.startswith("OK "):
        raise ValueError(answer)
    return answer[3:]
