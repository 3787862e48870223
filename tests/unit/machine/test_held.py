"""What a kernel holds for a process."""

import os
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.machine.held import described, held, resident


def test_file_that_is_opened_is_held(tmp_path: Path) -> None:
    before = held(os.getpid())
    with (tmp_path / "file").open("w"):
        after = held(os.getpid())
    assert after.fds - before.fds == {str(tmp_path / "file"): 1}


def test_thread_that_runs_is_held() -> None:
    stop = threading.Event()
    before = held(os.getpid()).threads
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert held(os.getpid()).threads == before + 1
    finally:
        stop.set()
        thread.join()


def test_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    with pytest.raises(FileNotFoundError):
        held(process.pid)


def test_numbers_of_inodes_are_left_out() -> None:
    assert described(["socket:[1]", "socket:[22]", "/a"]) == Counter({"socket": 2, "/a": 1})


def test_memory_is_in_bytes_and_a_zombie_has_none() -> None:
    assert resident("Name:\tx\nRssAnon:\t    12 kB\n") == 12 * 1024
    with pytest.raises(QapError, match="no RssAnon"):
        resident("State:\tZ (zombie)\n")
