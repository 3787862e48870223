"""What is behind the device of a scenario: a program, or a back-end in Python."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qap.explain.backend import features
from qap.fork.build import Build
from qap.machine.guest.io_checks import HostData
from qap.scenario.scenario import Scenario
from qap.vhost_user import programs, serve
from qap.vhost_user.chain_service import ChainService
from qap.vhost_user.programs import BackendProcess

ENDED_S = 10.0


@dataclass(frozen=True)
class Behind:
    """A back-end that runs.

    Attributes:
        socket: the path that QEMU connects to.
        by_hand: command lines that start the same one by hand.
        kill: ends it at once, as if it had crashed.
        words: what it said, if it has ended; "" otherwise.
        host: what serves the device, if that is in Python.
    """

    socket: Path
    by_hand: tuple[str, ...]
    kill: Callable[[], None]
    words: Callable[[], str] = str
    host: ChainService | None = None


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
        # Where the VM migrates, there is one behind each of the two QEMUs.
        started = programs.storage_daemon(
            folder, program, host_data.image, name, queues, locks=not scenario.migrate
        )
        with started as process:
            yield _of(process)
    elif kind.program == "vhost-user-gpu":
        with programs.gpu(folder, name) as process:
            yield _of(process)
    else:
        path = folder / f"{name}.sock"
        image = host_data.image if kind.check == "disk" else None
        serves = serve.service(kind.name, image)
        said = scenario.features or "none"
        by_hand = f"{sys.executable} -m qap.vhost_user.serve {kind.name} {path} {said}"
        by_hand += f" {image}" if image else ""
        with serve.serving(path, kind.name, features(said), serves) as served:
            yield Behind(path, (by_hand,), served.close, host=serves)


def _of(process: BackendProcess) -> Behind:
    def words() -> str:
        running = process.process
        return "" if running.alive else f"the back-end ended: {running.tail()}"

    def kill() -> None:
        process.process.kill()
        process.process.wait(ENDED_S)

    return Behind(process.socket, process.by_hand, kill, words)


@dataclass
class Replaceable:
    """A back-end that can be killed, and started again at the same socket.

    Use as a context manager.

    Args:
        start: starts one.

    Attributes:
        now: the one that runs.
    """

    start: Callable[[], AbstractContextManager[Behind]]
    now: Behind = field(init=False)
    words: str = field(init=False, default="")
    _owned: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.again()
        return self

    def again(self) -> None:
        """Start one."""
        self.now = self._owned.enter_context(self.start())

    def kill(self) -> None:
        """Kill the one that runs."""
        self.now.kill()
        self._owned.close()

    def __exit__(self, *_: object) -> None:
        self.words = self.now.words()
        self._owned.close()
