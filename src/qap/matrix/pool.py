"""Groups of cells spread over processes, which end with their owner."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.matrix.cell import Cell, named
from qap.matrix.group import Group, groups
from qap.matrix.result import CellResult

# prctl(2).
PR_SET_PDEATHSIG = 1
END_S = 10.0
SWITCH_S = 0.0005
Finished = Callable[[dict[str, Any]], None]


class Worker:
    """A process that carries out one group at a time.

    Attributes:
        connection: gives a result a message, and None at the end of a group.
        names: the cells of its group that have no result yet.
    """

    def __init__(self, build: Build, cpu: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, build, os.getpid(), cpu), daemon=True
        )
        self.process.start()
        theirs.close()
        self.names: list[str] = []

    def begin(self, cells: Sequence[Cell]) -> None:
        """Hand it a group."""
        self.names = [cell.name for cell in cells]
        self.connection.send(self.names)

    def end(self) -> None:
        """End it, and what it started; one that has nothing to do goes by itself."""
        self.connection.close()
        if self.names and self.process.is_alive():
            self.process.terminate()

    def join(self) -> None:
        """Wait until it is gone; it is killed if that takes too long."""
        self.process.join(END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def carry_out(build: Build, cells: Sequence[Cell], jobs: int, finished: Finished) -> None:
    """Carry out cells in `jobs` processes.

    Args:
        finished: gets each result as a dictionary (`CellResult.as_dict`) when it is there.
    Raises:
        QapError: a process ended without having been told to.
    """
    waiting = sorted(groups(cells), key=len)
    cpus = sorted(os.sched_getaffinity(0))
    workers = [Worker(build, cpus[n % len(cpus)]) for n in range(min(jobs, len(waiting)))]
    try:
        for worker in workers:
            worker.begin(waiting.pop())
        busy = {worker.connection: worker for worker in workers}
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker = busy[ready]
                result = _received(worker)
                if result is not None:
                    worker.names.remove(result["cell"])
                    finished(result)
                elif waiting:
                    worker.begin(waiting.pop())
                else:
                    del busy[ready]
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.join()


def _received(worker: Worker) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] | None = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        where = worker.names[0] if worker.names else "nothing"
        raise QapError(f"a process ended while it carried out {where}: see above") from None
    return result


def _work(connection: Connection, build: Build, parent: int, cpu: int) -> None:
    """The life of a worker."""
    # It and its QEMU take turns: on one processor that costs them half.
    os.sched_setaffinity(0, {cpu})
    signal.signal(signal.SIGTERM, _terminated)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # The back-end's thread and the driver take turns at every message.
    sys.setswitchinterval(SWITCH_S)
    is_base = build.is_base

    def report(result: CellResult) -> None:
        connection.send(result.as_dict(is_base=is_base))

    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            names = connection.recv()
            Group(build, [named(name) for name in names], report).run()
            connection.send(None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that every QEMU's owner ends it."""
    raise KeyboardInterrupt
