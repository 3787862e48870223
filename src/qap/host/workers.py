"""Worker processes that run jobs, send news of them, and end with their owner."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Generic, TypeVar

from qap.host.errors import QapError

# prctl(2).
PR_SET_PDEATHSIG = 1
END_S = 10.0
SWITCH_S = 0.0005
Job = TypeVar("Job")
News = TypeVar("News")
# Runs a job (first argument), and calls the second argument with each piece of news.
Work = Callable[[Job, Callable[[News], None]], None]


class WorkerEnded(QapError):
    """A worker ended unexpectedly; `number` is that of its job."""

    def __init__(self, number: int) -> None:
        super().__init__("a process ended by itself: see above")
        self.number = number


@dataclass
class _Worker(Generic[Job]):
    """A process, and the number of its job; None if it is idle."""

    process: BaseProcess
    connection: Connection
    job: int | None = None

    def begin(self, number: int, job: Job) -> None:
        self.job = number
        try:
            self.connection.send(job)
        except (BrokenPipeError, ConnectionResetError):
            raise WorkerEnded(number) from None

    def end(self) -> None:
        """Terminate it if it has a job; an idle one ends as its connection is closed."""
        self.connection.close()
        if self.job is not None and self.process.is_alive():
            self.process.terminate()

    def join(self) -> None:
        """Wait until it is gone; kill it if that takes longer than END_S."""
        self.process.join(END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def carry_out(
    work: Work[Job, News], jobs: Sequence[Job], processes: int, heard: Callable[[int, News], None]
) -> None:
    """Run jobs in worker processes, started in their order.

    Args:
        work: a function at the top of a module, so that the workers can import it.
        processes: how many workers at most.
        heard: called with the number of a job, from 0, and each piece of its news.
    Raises:
        WorkerEnded: a worker ended unexpectedly.
    """
    waiting = deque(enumerate(jobs))
    cpus = sorted(os.sched_getaffinity(0))
    workers: list[_Worker[Job]] = []
    try:
        for number in range(min(processes, len(jobs))):
            with _uninterrupted():
                workers.append(_started(work, cpus[number % len(cpus)]))
            workers[-1].begin(*waiting.popleft())
        busy = {worker.connection: worker for worker in workers}
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker = busy[ready]
                assert worker.job is not None
                news: tuple[News] | None = _received(worker)
                if news is not None:
                    heard(worker.job, *news)
                elif waiting:
                    worker.begin(*waiting.popleft())
                else:
                    worker.job = None
                    del busy[ready]
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.join()


def _started(work: Work[Job, News], cpu: int) -> _Worker[Job]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_live, args=(theirs, work, os.getpid(), cpu), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _received(worker: _Worker[Job]) -> tuple[News] | None:
    """A piece of news, or None at the end of a job."""
    try:
        news: tuple[News] | None = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        assert worker.job is not None
        raise WorkerEnded(worker.job) from None
    return news


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold SIGINT back until the context ends; for the main thread.

    A process started here inherits that it is blocked: its owner ends it, not Ctrl-C. Blocking
    it does not keep it from this process: another thread gets it then, and Python's handler
    runs in the main thread all the same.
    """
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _live(connection: Connection, work: Work[Job, News], parent: int, cpu: int) -> None:
    """The main function of a worker."""
    # It and its QEMU run in turns: on the same processor that takes half the time.
    os.sched_setaffinity(0, {cpu})
    signal.signal(signal.SIGTERM, _terminated)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # The thread of the back-end and that of the driver run in turns, at every message.
    sys.setswitchinterval(SWITCH_S)
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            work(connection.recv(), lambda news: connection.send((news,)))
            connection.send(None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM raise KeyboardInterrupt, so that contexts end every QEMU."""
    raise KeyboardInterrupt
