"""Progress on the terminal: a bar for builds, a line a step elsewhere."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from qap.fork.build import Build
from qap.fork.build import Progress as Report

console = Console(stderr=True)


@contextlib.contextmanager
def bar(title: str) -> Iterator[Report]:
    """A progress bar with steps, time so far and time left; fits into 80 columns."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[what]}", table_column=Column(ratio=1, no_wrap=True)),
    )
    if not console.is_terminal:
        yield _lines(title)
        return
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task(title, total=None, what="")

        def report(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total or None, what=what.rpartition("/")[2])

        yield report


def _lines(title: str) -> Report:
    """For a log file: a line for each tenth of the steps."""
    last = 0

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        if not total:
            console.print(f"{title}: {what}", highlight=False)
        elif done * 10 // total > last or done == total > 10:
            last = done * 10 // total
            console.print(f"{title}: {done}/{total}", highlight=False)

    return report


def make(build: Build, *extra: str) -> None:
    """Build with a progress bar; `extra` are further targets of ninja."""
    with bar(f"{build.name} ({build.profile})") as report:
        build.make(report, extra)
