"""A guest is told what the program takes, and what that says is understood."""

import subprocess
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.machine.guest.program import program
from qap.measure.throughput import RANDOM, SEQUENTIAL, Reading, rate_of


def test_rate_is_requests_by_seconds() -> None:
    assert rate_of("5000 250000000\n") == 20_000


@pytest.mark.parametrize("said", ["", "5000", "0 250000000", "5000 0", "a b", "1 2 3", "-1 2"])
def test_anything_else_is_refused(said: str) -> None:
    with pytest.raises(QapError, match="io-load"):
        rate_of(said)


@pytest.mark.parametrize("reading", [RANDOM, SEQUENTIAL])
def test_commands_are_what_the_program_takes(tmp_path: Path, reading: Reading) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    name, *words = reading.command(str(file), 0.02).split()
    said = subprocess.check_output([program(name, "amd64"), *words], text=True)
    assert rate_of(said) > 0
