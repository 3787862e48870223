"""What a QEMU and its guest said, for somebody who was not there."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from qap.host.errors import QapError
from qap.machine.machine import Machine
from qap.machine.qmp import Transcript
from qap.machine.spec import Spec

# Trace events of QEMU. A pattern that no event of a build fits is none of its errors.
TRACED = (
    *("virtio_set_*", "virtio_refuse_*"),
    *("vhost_user_read*", "vhost_user_write*", "vhost_dev_*", "vhost_iotlb_*"),
)
TRACE_LOG = "trace.log"
# The last lines of each are kept.
MOST_LINES = 2000
KERNEL_S = 20.0


def traced(folder: Path) -> list[str]:
    """Options with which QEMU writes its trace events to the folder."""
    events = [word for name in TRACED for word in ("-trace", name)]
    return [*events, "-D", str(folder / TRACE_LOG)]


@dataclass
class Recording:
    """Gathers what was said.

    Attributes:
        qmp: commands, answers and events, a line of JSON each.
        console: of the guest, and its kernel's log.
        qemu: QEMU's own output.
        traces: its trace events.
    """

    qmp: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    qemu: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    def spec(self, spec: Spec, folder: Path) -> Spec:
        """The same machine, with traces."""
        return replace(spec, extra=[*spec.extra, *traced(folder)])

    def begin(self, machine: Machine) -> None:
        """Listen to a machine that has just started."""
        machine.qmp.transcript = Transcript()

    def ask_kernel(self, machine: Machine) -> None:
        """Have the guest print its kernel's log, if it still answers."""
        if machine.process.alive:
            with suppress(QapError, TimeoutError):
                machine.console.run("dmesg", KERNEL_S)

    def keep_kernel(self, machine: Machine) -> None:
        """Keep the kernel's log of a machine that goes on, if it answers."""
        with suppress(QapError, TimeoutError):
            said = machine.console.run("dmesg", KERNEL_S).output.splitlines()
            self.console = _last(self.console, said)

    def end(self, machine: Machine, log: Path) -> None:
        """Keep what was said by a machine that has ended, before those that started after it.

        Args:
            log: QEMU's own output; the traces are beside it.
        """
        if hasattr(machine, "qmp") and machine.qmp.transcript:
            lines = [json.dumps(message) for message in machine.qmp.transcript.all(machine.qmp)]
            self.qmp = _last(lines, self.qmp)
        if hasattr(machine, "console"):
            lines = machine.console.text().splitlines()
            self.console = _last(lines, self.console)
        self.qemu = _last(_lines(log), self.qemu)
        self.traces = _last(_lines(log.with_name(TRACE_LOG)), self.traces)


def _last(first: Sequence[str], then: Sequence[str]) -> list[str]:
    return [*first, *then][-MOST_LINES:]


def _lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    return file.read_text(errors="replace").splitlines()[-MOST_LINES:]
