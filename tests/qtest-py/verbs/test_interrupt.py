"""Killing a running qap leaves nothing behind."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import Exit
from qap.host.paths import Project
from qap.host.wait import poll_until

MARK = "QAP_TEST_MARK"
RUN = ("run", "fs-pci-cold", "fs-pci-hot", "blk-pci-hot")
COUNTS = ("bench", "io", "--only", "counts")
RATES = ("bench", "io", "--only", "rates")
ENDED = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.INTERRUPTED}


def marked(value: str) -> dict[int, str]:
    """The processes with our mark in their environment, with their command lines."""
    processes = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={value}".encode() in (entry / "environ").read_bytes():
                words = (entry / "cmdline").read_bytes().split(b"\0")
                processes[int(entry.name)] = b" ".join(words).decode()
        except OSError:
            continue
    return processes


def left_running(value: str) -> dict[int, str]:
    """The marked processes that don't end within ten seconds.

    After a SIGKILL of their owner the kernel ends them, which takes a moment.
    """
    while processes := marked(value):
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                ended = select.select([pidfd], [], [], 10)[0]
                os.close(pidfd)
                if not ended:
                    return processes
    return {}


def announce(folder: Path) -> Path:
    """A FIFO that gets a line for each process: a setpriv(1) writes it, then runs the real one."""
    fifo = folder / "started"
    os.mkfifo(fifo)
    wrapper = folder / "setpriv"
    wrapper.write_text(f'#!/bin/sh\necho "$*" 1<>{fifo}\nexec {shutil.which("setpriv")} "$@"\n')
    wrapper.chmod(0o755)
    return fifo


@pytest.mark.parametrize(
    ("verb", "program", "number"),
    [
        *(
            (RUN, program, number)
            for program in ("qemu-system", "virtiofsd")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        ),
        (COUNTS, "valgrind", signal.SIGINT),
        (COUNTS, "valgrind", signal.SIGKILL),
        (RATES, "qemu-system", signal.SIGINT),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_killing_qap_leaves_no_process_and_no_folder(
    tmp_path: Path, verb: tuple[str, ...], program: str, number: signal.Signals
) -> None:
    """Kill it when a QEMU or a back-end starts."""
    for is_base in (True, False):
        Build("lab", is_base=is_base).path("qemu-system-x86_64")
    mark = f"{os.getpid()}-{number}-{verb[-1]}-{program}"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fifo = announce(tmp_path)
    # Open to read and write, so that neither side waits for the other.
    with os.fdopen(os.open(fifo, os.O_RDWR), "r") as started:
        run = subprocess.Popen(
            [sys.executable, "-m", "qap", *verb],
            cwd=Project.here().root,
            env={
                **os.environ,
                MARK: mark,
                "TMPDIR": str(scratch),
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with run:
            assert any(program in line for line in iter(started.readline, ""))
            run.send_signal(number)
            assert run.wait(30) == ENDED.get(number, -number)
        assert left_running(mark) == {}
    if number != signal.SIGKILL:
        assert list(scratch.iterdir()) == []


def test_suite_ends_where_the_shell_ignores_sigint() -> None:
    """As a shell does for background processes."""
    mark = f"{os.getpid()}-background"
    argv = [sys.executable, "-m", "qap", "test", "unit"]
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv],
        cwd=Project.here().root,
        env={**os.environ, MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        poll_until(
            lambda: any("pytest" in line for line in marked(mark).values()) or None,
            30,
            lambda: "pytest to start",
        )
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == Exit.INTERRUPTED
    assert left_running(mark) == {}
