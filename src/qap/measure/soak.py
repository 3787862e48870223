"""`qap soak`: plug and unplug for a long time, and see that nothing grows."""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host import workers
from qap.host.progress import bar
from qap.host.report import Report, bad, table
from qap.measure.soak_cycle import Soak, SoakStep, rotation, trace_leaks

# For each processor: a hot-unplug waits for QEMU's RCU most of the time.
JOBS_EACH = 4
# Of a sanitizer's report or of a crash; --json has more.
SHOWN_LINES = 40
KINDS = (
    ("fds", "file descriptors", 1),
    ("threads", "threads", 1),
    ("spaces", "AddressSpaces", 1),
    ("objects", "QOM objects", 1),
    ("resident", "MiB of memory", 1 << 20),
)
Advanced = Callable[[int], None]
Share = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What a process has to do: the arguments of its Soak."""

    build: Build
    cycles: int
    bounded: bool
    steps: tuple[SoakStep, ...] = field(default_factory=rotation)

    def carry_out(self, progress: Advanced) -> Share:
        """Do it; returns the result of `Soak.run`."""
        trace_leaks(self.build)
        return Soak(self.build, self.cycles, progress, self.steps, self.bounded).run()


def soak(build: Build, cycles: int, jobs: int | None) -> Report:
    """Plug and unplug `cycles` times in all, in several QEMUs at a time, and print the table.

    Args:
        cycles: beside a warm-up of two rotations in each QEMU.
        jobs: QEMUs; four for each processor if None, fewer where each would have less
            than a rotation to do.
    Raises:
        QapError: a process ended without having been told to.
    """
    start = time.monotonic()
    most = jobs or JOBS_EACH * (os.cpu_count() or 1)
    shares = _shares(cycles, min(most, -(-cycles // len(rotation()))))
    over: Counter[int] = Counter()
    with bar(f"soak on the {build.name}") as progress:

        def advanced(number: int, cycle: int) -> None:
            over[number] = cycle
            progress(over.total(), cycles, "")

        progress(0, cycles, "warms up")
        results = carry_out(
            [Order(build, share, not build.is_sanitized) for share in shares], advanced
        )
    seconds = time.monotonic() - start
    rows = [{"qemu": number, **result} for number, result in enumerate(results, 1)]
    _print(rows, build, seconds)
    ok = not any(row["problems"] for row in rows)
    return Report("soak", ok, seconds, rows)


def _shares(cycles: int, jobs: int) -> list[int]:
    return [cycles // jobs + (number < cycles % jobs) for number in range(jobs)]


def carry_out(orders: Sequence[Order], advanced: Callable[[int, int], None]) -> list[Share]:
    """Carry out each order in a process of its own.

    Args:
        advanced: gets the number of an order, from 0, and how many of its cycles are over.
    Raises:
        QapError: a process ended without having been told to.
    """
    results: dict[int, Share] = {}

    def heard(number: int, news: int | Share) -> None:
        if isinstance(news, int):
            advanced(number, news)
        else:
            results[number] = news

    workers.carry_out(_order, orders, len(orders), heard)
    return [results[number] for number in range(len(orders))]


def _order(order: Order, tell: Callable[[int | Share], None]) -> None:
    tell(order.carry_out(tell))


def _print(rows: Sequence[Share], build: Build, seconds: float) -> None:
    lines = [
        [title, _range(rows, kind, 0, unit), _range(rows, kind, -1, unit)]
        for kind, title, unit in KINDS
    ]
    done, refused = (sum(row[key] for row in rows) for key in ("done", "refused"))
    title = (
        f"{done} plugs on the {build.name} in {len(rows)} QEMUs, "
        f"{refused} of them refused ({seconds:.0f} s)"
    )
    table(title, ["what a QEMU holds", "after the warm-up", "at the end"], lines)
    console = Console()
    problems: Counter[str] = Counter()
    for row in rows:
        problems.update(row["problems"])
    for text, count in problems.most_common():
        console.print(f"{bad(str(count))} {escape(text)}")
    for detail in dict.fromkeys(row["detail"] for row in rows if row["detail"]):
        console.print(
            "\n".join(detail.splitlines()[:SHOWN_LINES]),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _range(rows: Sequence[Share], kind: str, sample: int, unit: int) -> str:
    """What the QEMUs held of something, from the least to the most."""
    values = [row["samples"][sample][kind] / unit for row in rows if row["samples"]]
    ends = dict.fromkeys(f"{value:.0f}" for value in (min(values), max(values))) if values else ()
    return " to ".join(ends)
