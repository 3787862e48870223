"""Progress on a terminal of 80 columns, and in a log file."""

import io
import re

import pytest
from rich.console import Console

from qap.host import progress

STEP = "Compiling C object libqemu-x86_64-softmmu.a.p/hw_virtio_virtio-config-io.c.o"


@pytest.mark.parametrize("title", ["base (lab)", "fork (sanitize)"])
def test_bar_shows_counts_and_times_in_80_columns(title: str) -> None:
    out = io.StringIO()
    terminal = Console(width=80, force_terminal=True, color_system=None, file=out)
    with progress.bar(title, terminal) as report:
        report(1157, 2740, STEP)
    lines = re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]+", out.getvalue())
    shown = [line for line in lines if "1157" in line]
    assert shown
    for line in shown:
        assert len(line) <= 80
        assert line.startswith(title)
        assert re.search(r" 1157/2740 \d:\d\d:\d\d left (-|\d):(-|\d){2}:(-|\d){2} hw_virtio", line)


def test_log_has_a_line_for_each_tenth() -> None:
    out = io.StringIO()
    with progress.bar("base (lab)", Console(width=80, file=out)) as report:
        for step in range(1, 201):
            report(step, 200, STEP)
    assert len(out.getvalue().splitlines()) == 10
    assert out.getvalue().endswith("base (lab): 200/200\n")
