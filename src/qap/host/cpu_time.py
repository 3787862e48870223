"""CPU time, user and system, of this process and of everything it has started.

The kernel counts it in nanoseconds, independent of its clock tick. POSIX gives each process
a CPU-time clock (clock_getcpuclockid(3)). Another process can read it, even after the process
has ended, until the parent has waited for it.
"""

import ctypes
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Self

# Fields of the first line of /proc/stat (proc_stat(5)) that count idle time.
IDLE, IOWAIT = 3, 4
# Guest time. The fields user and nice include it already.
GUEST = 8
# Fields of /proc/PID/stat (proc_pid_stat(5)), counted from the one after the name.
CUTIME, CSTIME = 13, 14


@dataclass
class Cost:
    """What a piece of work took, in seconds.

    Attributes:
        wall: elapsed time.
        own: CPU time of this process.
        children: CPU time of its children, and of their children.
    """

    wall: float = 0.0
    own: float = 0.0
    children: float = 0.0

    @property
    def cpu(self) -> float:
        return self.own + self.children

    @classmethod
    def so_far(cls) -> Self:
        """The cost of this process since a fixed moment; only differences have a meaning.

        A child counts from its start, whether it runs, has ended or has been waited
        for. The children that a running child has waited for are counted in clock ticks
        (10 ms); everything else is exact to a microsecond. A process whose parent
        ended without waiting for it does not count.
        """
        while True:
            ended = _ended()
            try:
                running = sum(_tree(pid) for pid in children(os.getpid()))
            except ProcessLookupError:
                continue
            # If another thread waited for a child meanwhile, it would count twice or never.
            if ended == _ended():
                return cls(time.monotonic(), time.process_time(), ended + running)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __truediv__(self, times: float) -> "Cost":
        """The cost of one of `times` equal parts."""
        return Cost(*(seconds / times for seconds in astuple(self)))


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the work in the block; the cost is filled in when the block ends.

    Children that outlive the block count for what they did during it.
    """
    cost = Cost()
    start = Cost.so_far()
    try:
        yield cost
    finally:
        taken = Cost.so_far() - start
        cost.wall, cost.own, cost.children = taken.wall, taken.own, taken.children


@dataclass
class Others:
    """The load by everything else on the machine.

    Attributes:
        share: of all processors' time, from 0 to 1. It is counted in clock ticks (10 ms), so it
            is rough for a short block. Time that other virtual machines take counts if the
            hypervisor reports it.
    """

    share: float = 0.0


@contextmanager
def others() -> Iterator[Others]:
    """Measure the load by other processes during the block; filled in when it ends."""
    load = Others()
    before = _busy()
    with measured() as cost:
        yield load
    share = (_busy() - before - cost.cpu) / (cost.wall * (os.cpu_count() or 1))
    load.share = min(max(0.0, share), 1.0)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this thread, and what it starts in the block, on one processor.

    If two processes that answer each other run on two processors, each answer wakes an idle
    processor. In a virtual machine that is expensive, and whether it happens depends on the
    other load. On the same processor the same work costs the same each time.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for.

    Args:
        pid: a process that runs, or that has ended and has not been waited for yet.
    Raises:
        ProcessLookupError: there is no such process.
    """
    clock = ctypes.c_int()
    error = _libc().clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    with _looked_up(pid):
        return time.clock_gettime(clock.value) + _waited_for(pid)


def children(pid: int) -> list[int]:
    """Pids of a process's children that run or have not been waited for.

    Raises:
        ProcessLookupError: there is no such process.
    """
    pids: list[int] = []
    with _looked_up(pid):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            pids += map(int, (thread / "children").read_text().split())
    return pids


@contextmanager
def _looked_up(pid: int) -> Iterator[None]:
    """Raise ProcessLookupError for every error about a process that is gone."""
    try:
        yield
    except OSError as exc:
        raise ProcessLookupError(f"process {pid} is gone") from exc


def _busy() -> float:
    """CPU seconds that all processors together were not idle; includes stolen time."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    ticks = [int(word) for word in words[:GUEST]]
    return (sum(ticks) - ticks[IDLE] - ticks[IOWAIT]) / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> float:
    return cpu_of(pid) + sum(_tree(process) for process in children(pid))


def _ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _waited_for(pid: int) -> float:
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[CUTIME]) + int(fields[CSTIME])
    return ticks / os.sysconf("SC_CLK_TCK")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
