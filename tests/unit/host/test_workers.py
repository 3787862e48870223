"""Processes that share work: all of it is done, and none of them outlives its owner."""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from qap.host import workers
from qap.host.workers import Work, WorkerEnded, carry_out

# A process imports what it carries out, so that has to be a module which it finds.
JOBS = """\
import os

def square(job, tell):
    tell(job)
    tell(job * job)

def end_at_three(job, tell):
    if job == 3:
        os._exit(1)
    tell(job)
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "worker_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "worker_jobs", raising=False)
    return importlib.import_module("worker_jobs")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_each_job_is_carried_out_and_heard_of(jobs: ModuleType, processes: int) -> None:
    heard: list[tuple[int, int]] = []
    carry_out(jobs.square, [5, 6, 7], processes, lambda number, news: heard.append((number, news)))
    assert sorted(heard) == [(0, 5), (0, 25), (1, 6), (1, 36), (2, 7), (2, 49)]


def test_process_that_ends_by_itself_is_told_with_its_job(jobs: ModuleType) -> None:
    with pytest.raises(WorkerEnded) as ended:
        carry_out(jobs.end_at_three, [1, 2, 3, 4], 1, lambda number, news: None)
    assert ended.value.number == 2


def test_error_of_the_owner_ends_the_processes(jobs: ModuleType) -> None:
    def refuse(number: int, news: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(jobs.square, list(range(20)), 3, refuse)


def test_interrupt_while_processes_start_loses_none(
    jobs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = workers._started

    def interrupted(work: Work[int, int], cpu: int) -> object:
        worker = started(work, cpu)
        os.kill(os.getpid(), signal.SIGINT)
        return worker

    monkeypatch.setattr(workers, "_started", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out(jobs.square, [1, 2, 3], 3, lambda number, news: None)
