"""The program that reads in guests reads what it is told to; it is compiled once, for amd64."""

import subprocess
from pathlib import Path

import pytest

from qap.host.errors import UsageError
from qap.machine.guest.program import program

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(bytes(SIZE))
    return made


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    argv = [str(program("io-load", "amd64")), *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_it_reads_for_as_long_as_it_is_told(file: Path) -> None:
    done = run(file, 4096, 4, "sequential", 50)
    requests, nanoseconds = map(int, done.stdout.split())
    assert requests >= 4
    assert 50e6 <= nanoseconds < 5e9


@pytest.mark.parametrize("order", ["random", "sequential"])
@pytest.mark.parametrize("blocks", [1, 3, 256])
def test_all_reads_are_inside_of_the_file(tmp_path: Path, order: str, blocks: int) -> None:
    """A read behind the end would be short, which is an error; so is a rest of a block."""
    file = tmp_path / "file"
    file.write_bytes(bytes(4096 * blocks + 512))
    assert run(file, 4096, 32, order, 20).returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["none", 4096, 1, "random", 1], 1, "No such file"),
        (["file", 2 * SIZE, 1, "random", 1], 1, "No data available"),
        (["file", 100, 1, "random", 1], 1, "a read: Invalid argument"),
        (["file", 0, 1, "random", 1], 2, "not a number from 1"),
        (["file", 4096, 257, "random", 1], 2, "not a number from 1 to 256"),
        (["file", 4096, "x", "random", 1], 2, "not a number"),
        (["file", 4096, 1, "backwards", 1], 2, "random or sequential"),
        (["file"], 2, "usage"),
    ],
)
def test_bad_input_is_one_line(file: Path, words: list[object], status: int, said: str) -> None:
    done = run(*[file.parent / str(word) if word in ("file", "none") else word for word in words])
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_program_is_compiled_once() -> None:
    first = program("io-load", "amd64")
    made = first.stat().st_ctime_ns
    assert program("io-load", "amd64") == first
    assert first.stat().st_ctime_ns == made


def test_program_is_for_guests_like_the_host() -> None:
    with pytest.raises(UsageError, match="s390x"):
        program("io-load", "s390x")
