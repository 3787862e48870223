"""From what somebody has to what becomes of each virtio device in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qap.explain import monitor, reading, start
from qap.explain.backend import Told
from qap.explain.buses import Buses
from qap.explain.command import Command
from qap.explain.implied import add_implied
from qap.explain.machine_type import Machine, machine_of
from qap.explain.prediction import Prediction, Predictor
from qap.explain.start import Start
from qap.host.errors import unknown_name


@dataclass(frozen=True)
class Explanation:
    """What a command line means for its virtio devices.

    Attributes:
        left: what was not understood and may matter, a line each.
        notes: what was taken for what, a line each.
    """

    start: Start
    command: Command
    machine: Machine
    buses: Buses
    predictions: Sequence[Prediction]

    @property
    def left(self) -> list[str]:
        return list(dict.fromkeys(self.command.left))

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(self.command.notes))


def explain(data: bytes, name: str, folder: Path, told: Mapping[str, Told]) -> Explanation:
    """Explain the last command line in what somebody has.

    Args:
        data: a shell line, a log, or what else `qap.explain.start` takes.
        name: of the file, for errors.
        folder: where -readconfig files are looked for if they are not in place.
        told: what is known of back-ends, by the id of the device or chardev, or the socket.
    Raises:
        UsageError: there is no command line, it can't be read, or names what QEMU lacks.
    """
    begun = start.find(data, name)
    command = reading.read(begun, folder)
    monitor.listen(begun.after, command)
    machine = machine_of(command)
    add_implied(command, machine)
    buses = Buses(command, machine)
    predictions = Predictor(command, machine, buses, told).all()
    known = {name for one in predictions for name in one.backend.names}
    for one in told:
        if one not in known:
            raise unknown_name("back-end", one, known)
    return Explanation(begun, command, machine, buses, predictions)
