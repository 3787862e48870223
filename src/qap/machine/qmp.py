"""A synchronous QMP client, built on qemu.qmp."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

from qemu.qmp import ExecInterruptedError, Message, QMPClient, Runstate
from qemu.qmp import QMPError as LibraryError
from qemu.qmp.events import EventListener
from qemu.qmp.qmp_client import ExecuteError

from qap.host.errors import QapError

COMMAND_S = 60.0

# The library logs an error if QEMU ends before its greeting; here that can be expected.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class QmpRefused(QapError):
    """QEMU answered a command with an error; `said` is its description."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"QMP {command}: {said}")
        self.command = command
        self.said = said


class QmpLost(QapError):
    """QEMU closed the connection, most likely because it ended."""


class Transcript:
    """What is said in a session: each command with its answer, and the events before it."""

    def __init__(self) -> None:
        self._said: list[Mapping[str, Any]] = []
        self._events = 0

    def note(self, qmp: "Qmp", *messages: Mapping[str, Any]) -> None:
        """Add messages, after the events that have come meanwhile."""
        events = qmp.events
        self._said += [dict(message) for message in (*events[self._events :], *messages)]
        self._events = len(events)

    def all(self, qmp: "Qmp") -> Sequence[Mapping[str, Any]]:
        """Everything so far."""
        self.note(qmp)
        return self._said


class Qmp:
    """A QMP session on a connected socket.

    Args:
        sock: our end of the monitor's socket; the session closes it.
        timeout: seconds to wait for the greeting: QEMU sends it once the machine
            is there, so for a cold-plugged device this includes realizing it.
        lost: what to raise where QEMU closes the connection; it is given a QmpLost.
    Raises:
        QmpLost: QEMU ended instead of greeting.

    Attributes:
        timeout: seconds to wait for the answer to a command; may be assigned.
        unanswered: a command had no answer in time.
        transcript: notes what is said, if it is assigned.
    """

    def __init__(
        self,
        sock: socket.socket,
        timeout: float = COMMAND_S,
        lost: Callable[[QapError], QapError] = lambda error: error,
    ) -> None:
        self._lost = lost
        self.unanswered = False
        self.transcript: Transcript | None = None
        self.timeout = COMMAND_S
        self._runner = asyncio.Runner()
        self._client = QMPClient("qap")
        self._events = EventListener()
        self._client.register_listener(self._events)
        try:
            self._run(self._client.connect(sock), timeout, "QEMU's QMP greeting")
        except BaseException:
            self._runner.close()
            sock.close()
            raise

    def _run(self, work: Any, timeout: float, wanted: str) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, timeout)

        try:
            return self._runner.run(bounded())
        except TimeoutError as exc:
            raise TimeoutError(f"waited {timeout:g} s for {wanted}") from exc
        except ExecuteError:
            raise
        except (LibraryError, ExecInterruptedError, EOFError, OSError) as exc:
            closed = QmpLost(f"QEMU closed its monitor while qap waited for {wanted}")
            raise self._lost(closed) from exc

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """Run a command; returns what QEMU returned.

        Raises:
            QmpRefused: QEMU answered with an error.
            QmpLost: QEMU ended.
        """
        return self._said(command, {key.replace("_", "-"): one for key, one in arguments.items()})

    def device_add(self, device: Mapping[str, object]) -> None:
        """device_add with a device's properties under their own names."""
        self._said("device_add", dict(device))

    def _said(self, command: str, arguments: dict[str, Any]) -> Any:
        """A command and its answer, noted if somebody wants that."""
        asked = {"execute": command, "arguments": arguments}
        try:
            work = self._client.execute(command, arguments or None)
            answer = self._run(work, self.timeout, f"QMP {command}")
        except TimeoutError:
            self.unanswered = True
            raise
        except ExecuteError as exc:
            said = exc.error.error.desc
            self._note(asked, {"error": {"desc": said}})
            raise QmpRefused(command, said) from exc
        self._note(asked, {"return": answer})
        return answer

    def _note(self, *messages: Mapping[str, Any]) -> None:
        if self.transcript is not None:
            self.transcript.note(self, *messages)

    @property
    def events(self) -> Sequence[Mapping[str, Any]]:
        """Every event that has come so far."""
        return self._events.history

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor; returns what it printed."""
        text: str = self.execute("human-monitor-command", command_line=line)
        return text.replace("\r\n", "\n")

    def wait_event(
        self, name: str, matches: Callable[[dict[str, Any]], bool], timeout: float
    ) -> dict[str, Any]:
        """Wait for an event whose data `matches`; events before it are dropped.

        Raises:
            TimeoutError: it didn't come; says which event was waited for.
            QmpLost: QEMU ended.
        """

        async def next_match() -> dict[str, Any]:
            while True:
                event = await self._next_event()
                data = cast("dict[str, Any]", event.get("data", {}))
                if event["event"] == name and matches(data):
                    return data

        data: dict[str, Any] = self._run(next_match(), timeout, f"the QMP event {name}")
        return data

    async def _next_event(self) -> Message:
        """The next event; raises EOFError where QEMU ends before there is one."""
        if not self._events.empty():
            return await self._events.get()
        ended = asyncio.create_task(self._has_ended())
        event = asyncio.create_task(self._events.get())
        try:
            await asyncio.wait({ended, event}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                raise EOFError
            return event.result()
        finally:
            ended.cancel()
            event.cancel()

    async def _has_ended(self) -> None:
        """Wait for the session's end, which may come before the wait begins."""
        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()

    def close(self) -> None:
        """End the session; safe after QEMU has gone."""
        try:
            self._run(self._client.disconnect(), 5, "the QMP session to end")
        except (QapError, TimeoutError):
            pass
        finally:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
