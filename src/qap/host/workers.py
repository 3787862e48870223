"""Processes that carry out jobs and tell of them, and that end with their owner."""

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
# Carries out a job, and calls what it is given with each piece of news.
Work = Callable[[Job, Callable[[News], None]], None]


class WorkerEnded(QapError):
    """A process ended without having been told to; `number` is that of its job."""

    def __init__(self, number: int) -> None:
        super().__init__("a process ended by itself: see above")
        self.number = number


@dataclass
class _Worker(Generic[Job]):
    """A process, and the number of the job that it has; None if it has nothing to do."""

    process: BaseProcess
    connection: Connection
    job: int | None = None

    def begin(self, number: int, job: Job) -> None:
        self.job = number
        self.connection.send(job)

    def end(self) -> None:
        """End it, and what it started; one that has nothing to do goes by itself."""
        self.connection.close()
        if self.job is not None and self.process.is_alive():
            self.process.terminate()

    def join(self) -> None:
        """Wait until it is gone; it is killed if that takes too long."""
        self.process.join(END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def carry_out(
    work: Work[Job, News], jobs: Sequence[Job], processes: int, heard: Callable[[int, News], None]
) -> None:
    """Carry out jobs, in their order, each in one of `processes`.

    Args:
        work: a function of a module, which the processes import.
        heard: gets the number of a job, from 0, and each piece of its news.
    Raises:
        WorkerEnded: a process ended by itself.
    """
    waiting = deque(enumerate(jobs))
    cpus = sorted(os.sched_getaffinity(0))
    workers: list[_Worker[Job]] = []
    try:
        for number in range(min(processes, len(jobs))):
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
    with _uninterrupted():
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
    """Keep Ctrl-C out, and for ever out of a process that is started: its owner ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _live(connection: Connection, work: Work[Job, News], parent: int, cpu: int) -> None:
    """The life of a process."""
    # It and its QEMU take turns: on one processor that costs them half.
    os.sched_setaffinity(0, {cpu})
    signal.signal(signal.SIGTERM, _terminated)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # The back-end's thread and the driver take turns at every message.
    sys.setswitchinterval(SWITCH_S)
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            work(connection.recv(), lambda news: connection.send((news,)))
            connection.send(None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that every QEMU's owner ends it."""
    raise KeyboardInterrupt
