"""A child ends with its owner, even if one of them ignores signals or is killed."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.host import process
from qap.host.errors import Interrupted
from qap.host.process import Process

# Long enough for slow machines; only a failing test waits so long.
PATIENCE_S = 10.0
OWNER = """
import signal, sys
from pathlib import Path
from qap.host.process import Process
with Process(["sh", "-c", sys.argv[3]], log=Path(sys.argv[1]), fds=[int(sys.argv[2])]):
    signal.pause()
"""


@dataclass
class Lifeline:
    """A pipe that every process under test inherits; it is at EOF once all are gone."""

    reader: int
    writer: int

    def says(self, word: str) -> str:
        """A shell command that writes a word to it."""
        return f"echo {word} >/proc/self/fd/{self.writer};"

    def let_go(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1

    def next(self) -> str:
        """The next word; "" when every process that held the pipe is gone."""
        ready, _, _ = select.select([self.reader], [], [], PATIENCE_S)
        assert ready, "nobody said anything, and somebody is still there"
        return os.read(self.reader, 100).decode().strip()


@pytest.fixture
def lifeline() -> Iterator[Lifeline]:
    made = Lifeline(*os.pipe())
    yield made
    made.let_go()
    os.close(made.reader)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def shell(script: str, log: Path, lifeline: Lifeline) -> Process:
    """A shell whose script writes "up"; returns after that."""
    started = Process(["sh", "-c", script], log=log, fds=[lifeline.writer])
    lifeline.let_go()
    assert lifeline.next() == "up"
    return started


def test_child_ends_with_its_context(log: Path, lifeline: Lifeline) -> None:
    with shell(f"{lifeline.says('up')} exec sleep 60", log, lifeline) as running:
        assert running.alive
        assert os.getsid(running.pid) == running.pid
    assert not running.alive
    assert running.process.returncode == -signal.SIGTERM
    assert lifeline.next() == ""


def test_child_that_ignores_sigterm_ends_too(
    log: Path, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.05)
    script = f"trap '' TERM; {lifeline.says('up')} sleep 60; sleep 60"
    with shell(script, log, lifeline) as running:
        pass
    assert running.process.returncode == -signal.SIGKILL
    assert lifeline.next() == ""


def test_children_of_the_child_end_too(log: Path, lifeline: Lifeline) -> None:
    with shell(f"sleep 60 & sleep 60 & {lifeline.says('up')} wait", log, lifeline):
        pass
    assert lifeline.next() == ""


def test_children_that_outlive_the_child_end_with_the_context(
    log: Path, lifeline: Lifeline
) -> None:
    with shell(f"(trap '' TERM; {lifeline.says('up')} sleep 60) & exit 3", log, lifeline) as ended:
        assert ended.wait(PATIENCE_S) == 3
    assert lifeline.next() == ""


def test_context_that_fails_ends_the_child(log: Path, lifeline: Lifeline) -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        shell(f"{lifeline.says('up')} exec sleep 60", log, lifeline),
    ):
        raise RuntimeError("mine")
    assert lifeline.next() == ""


def test_killed_owner_takes_the_child_along(log: Path, lifeline: Lifeline) -> None:
    script = f"{lifeline.says('up')} exec sleep 60"
    argv = [sys.executable, "-c", OWNER, str(log), str(lifeline.writer), script]
    with subprocess.Popen(argv, pass_fds=[lifeline.writer]) as owner:
        lifeline.let_go()
        assert lifeline.next() == "up"
        owner.kill()
    assert lifeline.next() == ""


def test_child_gets_variables_and_descriptors(log: Path) -> None:
    with open(os.devnull) as held:  # noqa: PTH123 # a descriptor to inherit
        script = f'echo "$QAP_TEST"; test -e /proc/self/fd/{held.fileno()}'
        argv = ["sh", "-c", script]
        with Process(argv, log=log, fds=[held.fileno()], env={"QAP_TEST": "seen"}) as running:
            assert running.wait(PATIENCE_S) == 0
        assert running.tail() == "seen"
        with Process(argv, log=log) as running:
            assert running.wait(PATIENCE_S) == 1


def test_tail_is_the_end_of_what_was_printed(log: Path) -> None:
    with Process(["sh", "-c", "echo one; echo two >&2; echo three"], log=log) as running:
        running.wait(PATIENCE_S)
    assert running.tail(2) == "two\nthree"
    assert running.tail() == "one\ntwo\nthree"


def test_timeout_says_what_was_waited_for(log: Path) -> None:
    with (
        Process(["/bin/sleep", "60"], log=log) as running,
        pytest.raises(TimeoutError, match=rf"^waited 0\.01 s for sleep \(pid {running.pid}\)"),
    ):
        running.wait(0.01)


def test_end_is_safe_to_repeat(log: Path) -> None:
    with Process(["true"], log=log) as running:
        running.end()
    running.end()
    assert running.process.returncode is not None


def test_stop_all_ends_every_child_and_lets_none_start(log: Path, tmp_path: Path) -> None:
    with (
        Process(["sleep", "60"], log=log) as first,
        Process(["sleep", "60"], log=tmp_path / "b") as second,
    ):
        process.stop_all()
        assert first.wait(PATIENCE_S) == second.wait(PATIENCE_S) == -signal.SIGKILL
        with pytest.raises(Interrupted):
            Process(["true"], log=tmp_path / "c")


def test_ended_child_is_forgotten(log: Path) -> None:
    with Process(["true"], log=log) as running:
        assert running in process._live
    assert running not in process._live


def test_program_that_does_not_exist_is_missed(log: Path) -> None:
    from qap.host.errors import MissingError

    with (
        pytest.raises(MissingError, match="no-such-program"),
        Process(["no-such-program"], log=log),
    ):
        pass
