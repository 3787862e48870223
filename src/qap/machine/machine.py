"""A QEMU process with its monitor, console and QTest session, from start to end."""

import shlex
import socket
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qap.host.errors import QapError
from qap.host.process import Process, RunningProgram
from qap.machine import chardev
from qap.machine.device import Device
from qap.machine.guest.console import Console, GuestLost
from qap.machine.held import Held, held
from qap.machine.newer import completed
from qap.machine.qmp import Qmp, QmpRefused
from qap.machine.qtest import Qtest
from qap.machine.spec import Spec
from qap.oracle.fence import REFUSAL_PHRASE

EXIT_S = 20.0
# A QEMU that has closed a session ends soon, or it hangs.
LOST_S = 5.0
START_S = 60.0
OUTPUT_LINES = 100


class QemuDied(QapError):
    """QEMU ended by itself.

    Attributes:
        status: its exit status, negative for a signal.
        said: the last lines that it printed.
        output: the last OUTPUT_LINES lines, enough for a backtrace of a debugger.
    """

    def __init__(self, process: RunningProgram, status: int) -> None:
        said = process.tail()
        super().__init__(
            f"QEMU ended with status {status}", f"{said}\ncommand: {shlex.join(process.argv)}"
        )
        self.status = status
        self.said = said
        self.output = process.tail(OUTPUT_LINES)

    @property
    def fenced(self) -> bool:
        """Whether it exited with status 1 because a device refuses iommu_platform=on."""
        return self.status == 1 and REFUSAL_PHRASE in self.said


@dataclass
class Machine:
    """A running QEMU.

    Use as a context manager: leaving it ends the process and closes everything.

    Args:
        binary: the emulator.
        spec: what to run.
        log: where QEMU's own output goes; a temporary file if None.
        wrapper: a command that runs QEMU, such as a debugger, with its arguments.

    Attributes:
        qtest: the QTest session, there only if the spec asks for it.
        serial: our end of the first serial line; `console` reads from it when it is used.
    """

    binary: Path
    spec: Spec
    log: Path | None = None
    wrapper: Sequence[str] = ()
    process: RunningProgram = field(init=False, repr=False)
    qmp: Qmp = field(init=False, repr=False)
    serial: socket.socket = field(init=False, repr=False)
    console: Console = field(init=False, repr=False)
    qtest: Qtest = field(init=False, repr=False)
    _owned: ExitStack = field(init=False, repr=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._owned.close()
            raise
        return self

    def _start(self) -> None:
        folder = Path(self._owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
        monitor, monitor_qemu = self._pair()
        serial, serial_qemu = self._pair()
        theirs = [monitor_qemu, serial_qemu]
        qtest = None
        if self.spec.qtest:
            qtest, qtest_qemu = self._pair()
            theirs.append(qtest_qemu)
        fds = [end.fileno() for end in theirs]
        argv = self._argv(*[f"socket,fd={fd}" for fd in fds])
        process = Process(argv, log=self.log or folder / "qemu.log", fds=fds)
        self.process = self._owned.enter_context(process)
        for end in theirs:
            end.close()
        self._connect(monitor, serial, qtest)

    def _argv(self, monitor: str, serial: str, qtest: str = "") -> list[str]:
        """The whole command line.

        Args:
            monitor, serial, qtest: values of -chardev without an id, such as "socket,fd=3";
                `qtest` only if the spec asks for it.
        """
        spec = completed(self.spec, self.binary)
        argv = [*self.wrapper, str(self.binary), *spec.argv(spec.bring())]
        argv += ["-chardev", f"{monitor},id=qmp", "-mon", "chardev=qmp,mode=control"]
        argv += ["-chardev", f"{serial},id=console", "-serial", "chardev:console"]
        if qtest:
            argv += ["-chardev", f"{qtest},id=qtest"]
            argv += ["-qtest", "chardev:qtest", "-qtest-log", "none"]
        return argv

    def _connect(
        self, monitor: socket.socket, serial: socket.socket, qtest: socket.socket | None = None
    ) -> None:
        """Open the sessions on our ends of what `_argv` names, once QEMU runs."""
        if qtest is not None:
            self.qtest = self._owned.enter_context(Qtest(qtest, lost=self._lost))
        self.serial = serial
        self.console = Console(serial)
        self.qmp = Qmp(monitor, START_S, self._lost)
        self._owned.callback(self.qmp.close)
        self._owned.callback(self._kill_if_hung)

    def _kill_if_hung(self) -> None:
        """Don't ask a QEMU to end that has not answered a command."""
        if self.qmp.unanswered or (self.spec.qtest and self.qtest.unanswered):
            self.process.kill()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        self._owned.callback(ours.close)
        self._owned.callback(theirs.close)
        return ours, theirs

    def died(self, timeout: float = EXIT_S) -> QemuDied:
        """The error for a QEMU that has closed its monitor or console.

        Raises:
            TimeoutError: QEMU still runs.
        """
        return QemuDied(self.process, self.process.wait(timeout))

    def _lost(self, error: QapError) -> QapError:
        """The error for a closed session: QemuDied if QEMU ended, or else `error`."""
        try:
            return self.died(LOST_S)
        except TimeoutError:
            return error

    def boot(self) -> str:
        """Wait for the guest; returns its kernel's release.

        Raises:
            QemuDied: QEMU ended instead.
        """
        assert self.spec.boot is not None
        try:
            return self.console.wait_ready(self.spec.boot.guest.boot_silence)
        except GuestLost:
            raise self.died() from None

    def add_socket(self, name: str, path: Path, *, reconnects: bool = False) -> None:
        """Add a chardev that connects to a socket.

        Args:
            reconnects: it connects again when the other end is gone.
        Raises:
            QmpRefused, TimeoutError: QEMU can't connect.
        """
        address = {"type": "unix", "data": {"path": str(path)}}
        data: dict[str, object] = {"addr": address, "server": False}
        if reconnects:
            data["reconnect-ms"] = chardev.RECONNECT_MS
        self.qmp.execute("chardev-add", id=name, backend={"type": "socket", "data": data})
        if reconnects:
            # chardev-add does not wait until such a chardev is connected.
            chardev.wait_connected(self.qmp, name)

    def plug(self, device: Device) -> None:
        """Hot-plug a device.

        Raises:
            QmpRefused: QEMU refused it.
            QemuDied: QEMU ended.
        """
        self.qmp.device_add(device)

    def refusal(self, device: Device) -> str:
        """What QEMU says when it refuses to plug a device; "" if it plugs.

        Raises:
            QemuDied: QEMU ended.
        """
        try:
            self.plug(device)
        except QmpRefused as refused:
            return refused.said
        return ""

    def unplug(self, device_id: str, timeout: float = 30.0) -> None:
        """Ask the guest to release a device and wait until it is gone.

        Raises:
            TimeoutError: the guest didn't release it.
            QemuDied: QEMU ended.
        """
        self.qmp.execute("device_del", id=device_id)
        self.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == device_id, timeout)

    @property
    def alive(self) -> bool:
        """Whether the VM still runs: the process is there and answers on its monitor."""
        if not self.process.alive:
            return False
        status: str = self.qmp.execute("query-status")["status"]
        return status in ("running", "prelaunch")

    def held(self) -> Held:
        """What the kernel holds for QEMU.

        Raises:
            OSError, QapError: it has ended.
        """
        # setpriv execs QEMU, so that the process's pid is QEMU's.
        return held(self.process.pid)

    def resident(self) -> int:
        """QEMU's private resident memory in bytes."""
        return self.held().resident

    def __exit__(self, *_: object) -> None:
        self._owned.close()


def address_spaces(flat_views: str) -> Iterable[str]:
    """Names of the AddressSpaces in the output of HMP `info mtree -f`."""
    for line in flat_views.splitlines():
        stripped = line.strip()
        if stripped.startswith("AS "):
            yield stripped.partition('"')[2].partition('"')[0]
