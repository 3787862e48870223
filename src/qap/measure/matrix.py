"""`qap bench matrix`: what a cell costs beside a test of upstream's qos-test."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from qap.fork.build import Build
from qap.host.cpu_time import Cost, measured, pinned
from qap.host.errors import QapError
from qap.host.progress import bar
from qap.host.report import Report, bad, good, table
from qap.matrix import pool
from qap.matrix.cell import Cell, cells
from qap.matrix.run import JOBS_EACH
from qap.verify.qtest_programs import QOS, run_qtest

TENTH = 0.1
TWO_THIRDS = 2 / 3
REUSED_RATE = 100
OWN_RATE = 25
OWN_CELLS = 150


@dataclass(frozen=True)
class CostRow:
    """One kind of test.

    Attributes:
        tests: how many were run.
        cpu: CPU seconds of one, user and system, QEMU's and its driver's.
        rate: tests a second on this machine's processors.
        most_cpu, least_rate: what is asked of it; None if nothing is.
    """

    name: str
    tests: int
    cpu: float
    rate: float
    most_cpu: float | None = None
    least_rate: float | None = None

    @property
    def ok(self) -> bool:
        cheap = self.most_cpu is None or self.cpu <= self.most_cpu
        return cheap and (self.least_rate is None or self.rate >= self.least_rate)


def bench(build: Build) -> Report:
    """Run qos-test and two selections of cells, one after the other, and print the costs.

    Raises:
        QapError: qos-test failed.
    """
    start = time.monotonic()
    with pinned(min(os.sched_getaffinity(0))):
        Console(stderr=True).print("upstream's qos-test", highlight=False)
        upstream = run_qtest(build, QOS)
    if upstream.problems:
        raise QapError(f"qos-test: {upstream.problems[0]}", upstream.said)
    each = upstream.cpu / len(upstream.results)
    rows = [
        CostRow(
            "upstream qos-test", len(upstream.results), each, len(upstream.results) / upstream.wall
        ),
        _row("cells that share a QEMU", shared(), build, TENTH * each, REUSED_RATE),
        _row("cells with their own QEMU", alone(), build, TWO_THIRDS * each, OWN_RATE),
    ]
    seconds = time.monotonic() - start
    _print(rows, each, seconds)
    ok = all(row.ok for row in rows)
    return Report("bench", ok, seconds, [{**asdict(row), "ok": row.ok} for row in rows])


def shared() -> list[Cell]:
    """Every cell that can be carried out in a QEMU that others use, too."""
    return [cell for cell in cells() if cell.config.plug == "hot" and not cell.config.skip]


def alone() -> list[Cell]:
    """Cells of cold-plugged devices, one of each device: each starts a QEMU."""
    by_config = {
        cell.config: cell
        for cell in reversed(cells())
        if cell.config.plug == "cold" and not cell.config.skip
    }
    step = max(1, len(by_config) // OWN_CELLS)
    return list(by_config.values())[::step]


def _row(
    name: str, chosen: Sequence[Cell], build: Build, most_cpu: float, least_rate: float
) -> CostRow:
    cost = _cost(name, chosen, build)
    return CostRow(
        name,
        len(chosen),
        cost.cpu / len(chosen),
        len(chosen) / cost.wall,
        most_cpu,
        least_rate,
    )


def _cost(name: str, chosen: Sequence[Cell], build: Build) -> Cost:
    done = 0
    with bar(name) as progress, measured() as cost:

        def finished(result: object) -> None:
            nonlocal done
            done += 1
            progress(done, len(chosen), "")

        pool.carry_out(build, chosen, JOBS_EACH * (os.cpu_count() or 1), finished)
    return cost


def _print(rows: Sequence[CostRow], each: float, seconds: float) -> None:
    shown = []
    for row in rows:
        mark = good if row.ok else bad
        asked = ""
        if row.most_cpu is not None and row.least_rate is not None:
            asked = f"≤ {row.most_cpu * 1000:.1f} ms, ≥ {row.least_rate:.0f}/s"
        shown.append(
            [
                row.name,
                str(row.tests),
                mark(f"{row.cpu * 1000:.1f} ms"),
                f"{row.cpu / each:.3f}",
                mark(f"{row.rate:.0f}/s"),
                asked,
            ]
        )
    columns = ["what", "tests", "CPU each", "of a qos-test", "rate", "asked"]
    table(f"qap bench matrix ({seconds:.0f} s)", columns, shown)
