"""CPU time is charged to whoever used it, in the right block, to the millisecond."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from qap.host.cpu_time import Cost, children, cpu_of, measured, others, pinned

# CPU seconds that a process may use to read its orders and to report that it is done.
SLACK_S = 0.02
BURNER = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end:
        pass
    print("done", flush=True)
"""


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@dataclass
class Burner:
    """A process that uses CPU time on request, and ends when its stdin is closed."""

    process: subprocess.Popen[str]

    def burn(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        assert self._said() == "done"

    def end(self) -> None:
        """End it and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def end_unreaped(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def burning(*before: str) -> Iterator[Burner]:
    argv = [*before, sys.executable, "-S", "-c", BURNER]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        started = Burner(process)
        assert started._said() == "ready"
        yield started


@pytest.fixture
def burner() -> Iterator[Burner]:
    with burning() as started:
        yield started


def test_own_work_is_charged_to_this_process() -> None:
    with measured() as cost:
        burn(0.05)
    assert 0.05 <= cost.own < 0.05 + SLACK_S
    assert cost.children == 0
    assert cost.cpu == cost.own
    assert cost.wall >= cost.own


def test_waiting_costs_nothing() -> None:
    with measured() as cost:
        time.sleep(0.05)
    assert cost.wall >= 0.05
    assert cost.cpu < SLACK_S


def test_running_child_is_charged_for_what_it_did_in_the_block(burner: Burner) -> None:
    burner.burn(0.1)
    with measured() as cost:
        burner.burn(0.05)
    assert 0.05 <= cost.children < 0.05 + SLACK_S
    assert cost.own < SLACK_S
    burner.burn(0.1)
    assert cost.children < 0.05 + SLACK_S


def test_child_that_ends_in_the_block_is_charged_for_its_part(burner: Burner) -> None:
    burner.burn(0.1)
    with measured() as cost:
        burner.burn(0.05)
        burner.end()
    assert 0.05 <= cost.children < 0.05 + SLACK_S


def test_child_that_nobody_has_waited_for_is_charged(burner: Burner) -> None:
    with measured() as cost:
        burner.burn(0.05)
        burner.end_unreaped()
    assert 0.05 <= cost.children < 0.05 + SLACK_S


def test_child_that_starts_and_ends_in_the_block_is_charged_once() -> None:
    with measured() as cost, burning() as burner:
        burner.burn(0.3)
        burner.end()
    assert 0.3 <= cost.children < 0.6


def test_grandchild_is_charged() -> None:
    with burning("sh", "-c", '"$@"; :', "sh") as burner, measured() as cost:
        burner.burn(0.05)
    assert 0.05 <= cost.children < 0.05 + SLACK_S


def test_failed_work_is_measured_too() -> None:
    with pytest.raises(RuntimeError, match="mine"), measured() as cost:
        burn(0.03)
        raise RuntimeError("mine")
    assert cost.own >= 0.03


def test_clock_of_a_process_goes_on_until_somebody_waits_for_it(burner: Burner) -> None:
    before = cpu_of(burner.process.pid)
    burner.burn(0.05)
    assert cpu_of(burner.process.pid) >= before + 0.05
    burner.end_unreaped()
    assert cpu_of(burner.process.pid) >= before + 0.05
    burner.process.wait()
    with pytest.raises(ProcessLookupError):
        cpu_of(burner.process.pid)


def test_clock_of_a_process_has_what_it_waited_for() -> None:
    burn_once = "import time\nwhile time.process_time() < 0.2: pass"
    argv = ["sh", "-c", '"$@"; :', "sh", sys.executable, "-S", "-c", burn_once]
    with subprocess.Popen(argv) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert 0.2 - 0.02 <= cpu_of(process.pid) < 0.4


def test_children_are_those_not_waited_for(burner: Burner) -> None:
    assert burner.process.pid in children(os.getpid())
    assert children(burner.process.pid) == []
    burner.end()
    assert burner.process.pid not in children(os.getpid())
    with pytest.raises(ProcessLookupError):
        children(burner.process.pid)


def test_costs_add_up_and_share_out() -> None:
    two = Cost(4.0, 1.0, 2.0)
    assert two + two == Cost(8.0, 2.0, 4.0)
    assert two - two == Cost()
    assert two / 2 == Cost(2.0, 0.5, 1.0)
    assert (two / 2).cpu == 1.5


def test_pinned_work_stays_on_one_processor() -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    with pinned(cpu):
        show = "import os; print(*os.sched_getaffinity(0))"
        told = subprocess.check_output([sys.executable, "-c", show], text=True)
    assert told.split() == [str(cpu)]
    assert os.sched_getaffinity(0) == before


def test_own_work_is_nobody_elses() -> None:
    """Half a second of our own CPU time does not count, whatever else runs."""
    with others() as load, measured() as cost:
        burn(0.5)
    idle = 1 - cost.own / cost.wall / (os.cpu_count() or 1)
    assert 0 <= load.share <= idle + SLACK_S


def test_share_of_a_block_that_is_shorter_than_a_clock_tick() -> None:
    """A tick that ends in it is longer than the block."""
    for _ in range(500):
        with others() as load:
            burn(0.0002)
        assert 0 <= load.share <= 1


def test_work_of_a_process_that_is_not_ours_is_somebody_elses() -> None:
    """Its parent has ended without waiting for it."""
    script = "import time\nwhile time.process_time() < 0.5: pass"
    argv = ["sh", "-c", '"$@" & :', "sh", sys.executable, "-S", "-c", script]
    with others() as load, measured() as cost:
        # This returns at the end of the pipe: when the last process that holds it ends.
        subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    assert load.share * cost.wall * (os.cpu_count() or 1) >= 0.5 - 2 * SLACK_S
