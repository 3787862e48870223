"""Standard output whose reader leaves early."""

import subprocess
import sys

import pytest

WRITES = """
import sys
from qap.host.output import tolerate_closed_output
tolerate_closed_output()
{}
sys.stderr.write("done")
sys.exit(3)
"""
LINES = "for _ in range(100_000): print('a line')"
RICH = """
from rich.console import Console
for _ in range(2_000): Console().print("a line")
"""


@pytest.mark.parametrize("script", [LINES, "print('a line')", RICH, "print('a line', flush=True)"])
def test_program_goes_on_and_keeps_its_exit_code(script: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", WRITES.format(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout and program.stderr
    program.stdout.close()
    assert program.stderr.read() == "done"
    assert program.wait(30) == 3
    program.stderr.close()


def test_reader_that_stays_gets_everything() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITES.format(LINES)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.count("\n"), done.stderr, done.returncode) == (100_000, "done", 3)
