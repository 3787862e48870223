"""Progress: a bar on a terminal, lines in a log file."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Called with steps done, steps in all (0 if unknown) and what is being done.
Progress = Callable[[int, int, str], None]


def quiet(done: int, total: int, what: str) -> None:
    """Shows nothing."""


@contextlib.contextmanager
def bar(title: str, console: "Console | None" = None) -> Iterator[Progress]:
    """A progress bar with steps, time so far and time left; fits into 80 columns.

    Args:
        console: where it is shown; standard error if None.
    """
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, console)
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=20),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("[dim]{task.fields[what]}", table_column=Column(ratio=1, no_wrap=True)),
    )
    with progress.Progress(*columns, console=console, transient=True, expand=True) as shown:
        task = shown.add_task(title, total=None, what="")

        def report(done: int, total: int, what: str) -> None:
            shown.update(task, completed=done, total=total or None, what=what.rpartition("/")[2])

        yield report


def _lines(title: str, console: "Console") -> Progress:
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
