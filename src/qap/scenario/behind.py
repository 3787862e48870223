"""What is behind the device of a scenario: a program, or a back-end in Python."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.explain.backend import features
from qap.fork.build import Build
from qap.machine.guest.io_checks import HostData
from qap.machine.guest.traffic import SocketHost
from qap.scenario.scenario import Scenario
from qap.vhost_user import programs, serve
from qap.vhost_user.programs import BackendProcess
from qap.vhost_user.vsock import VsockHost


@dataclass(frozen=True)
class Behind:
    """A back-end that runs.

    Attributes:
        socket: the path that QEMU connects to.
        by_hand: command lines that start the same one by hand.
        words: what it said, if it has ended; "" otherwise.
        host: what answers a guest over a socket device, if it is one.
    """

    socket: Path
    by_hand: tuple[str, ...]
    words: Callable[[], str] = str
    host: SocketHost | None = None


@contextmanager
def behind(
    scenario: Scenario, build: Build, host_data: HostData, name: str, share: Path | None = None
) -> Iterator[Behind]:
    """The back-end of a vhost-user device.

    Args:
        name: of its socket and log.
        share: what virtiofsd shares, if not the host's side of the data.
    """
    folder, kind = host_data.folder, scenario.kind
    if kind.program == "virtiofsd":
        shared, architecture = share or host_data.shared, scenario.settings.architecture
        with programs.virtiofsd(folder, shared, architecture, name) as process:
            yield _of(process)
    elif kind.program == "qemu-storage-daemon":
        program, queues = build.path("qemu-storage-daemon"), max(scenario.queues, 1)
        with programs.storage_daemon(folder, program, host_data.image, name, queues) as process:
            yield _of(process)
    else:
        path = folder / f"{name}.sock"
        serves = serve.service(kind.name)
        said = scenario.features or "none"
        by_hand = f"{sys.executable} -m qap.vhost_user.serve {kind.name} {path} {said}"
        with serve.serving(path, kind.name, features(said), serves):
            host = serves if isinstance(serves, VsockHost) else None
            yield Behind(path, (by_hand,), host=host)


def _of(process: BackendProcess) -> Behind:
    def words() -> str:
        running = process.process
        return "" if running.alive else f"the back-end ended: {running.tail()}"

    return Behind(process.socket, process.by_hand, words)
