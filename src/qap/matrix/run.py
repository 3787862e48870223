"""`qap matrix`: every cell beside what must happen, and a summary."""

import os
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qap.fork import series
from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.host.progress import bar
from qap.host.report import Report, bad, good, table
from qap.matrix import pool
from qap.matrix.cell import Cell, matches_axes
from qap.matrix.gaps import Gap, gaps
from qap.matrix.group import Group
from qap.matrix.journal import Journal
from qap.matrix.result import CellResult, Verdict

# A hot-unplug waits for QEMU's RCU most of the time, so more than the processors can work.
JOBS_EACH = 3
SHOWN = 12
LONGEST = 200
EMPTY: tuple[object, ...] = (None, "", [])


def matrix(
    cells: Sequence[Cell],
    build: Build,
    *,
    jobs: int | None,
    resume: bool,
    folder: Path | None = None,
) -> Report:
    """Carry out cells and print the summary.

    Args:
        jobs: processes; three for each processor if None.
        resume: go on with a run that was interrupted.
        folder: of its journal; see Journal.
    """
    start = time.monotonic()
    _check_devices(cells, build)
    journal = Journal(build, folder)
    results = journal.resume(cells) if resume else []
    if not resume:
        journal.begin()
    done = {result["cell"] for result in results}
    left = [cell for cell in cells if cell.name not in done]
    try:
        with bar(f"matrix on the {build.name}") as progress:

            def finished(result: dict[str, Any]) -> None:
                results.append(result)
                journal.append(result)
                progress(len(results), len(cells), result["axes"]["device"])

            progress(len(results), len(cells), "")
            pool.carry_out(build, left, jobs or JOBS_EACH * (os.cpu_count() or 1), finished)
    except KeyboardInterrupt:
        Console(stderr=True).print(
            f"{len(results)} of {len(cells)} cells done: go on with --resume"
        )
        raise
    seconds = time.monotonic() - start
    order = {cell.name: number for number, cell in enumerate(cells)}
    results.sort(key=lambda result: order[result["cell"]])
    stale = [] if build.is_base else _stale(cells, results)
    summary(results, stale, build, seconds)
    wrong = [one for one in results if one["verdict"] in (Verdict.MISMATCH, Verdict.ERROR)]
    return Report("matrix", not wrong and not stale, seconds, results)


def _check_devices(cells: Sequence[Cell], build: Build) -> None:
    """Raises MissingError where the build lacks a device that a cell needs."""
    needed: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        if not cell.config.skip:
            needed[cell.config.machine_row.qemu].add(cell.config.device_type)
    for system, types in needed.items():
        program = build.path(f"qemu-system-{system}")
        said = subprocess.run(
            [program, "-device", "help"], capture_output=True, text=True, timeout=60, check=True
        )
        missing = types - set(re.findall(r'^name "([^"]+)"', said.stdout, re.MULTILINE))
        if missing:
            raise MissingError(
                f"{program.name} ({build.name}, profile {build.profile}) has no device "
                f"{', '.join(sorted(missing))}: build another profile, or leave it out by --select"
            )


def alone(cell: Cell, build: Build) -> Report:
    """Carry out one cell in a QEMU of its own and explain it in one screen."""
    start = time.monotonic()
    _check_devices([cell], build)
    found: list[CellResult] = []
    Group(build, [cell], found.append).run()
    (result,) = found
    shown = result.as_dict(is_base=build.is_base)
    seconds = time.monotonic() - start
    explain(shown, build, seconds)
    fine = shown["verdict"] in (Verdict.MATCH, Verdict.KNOWN, Verdict.SKIP)
    return Report("repro", fine, seconds, [shown])


def explain(result: dict[str, Any], build: Build, seconds: float) -> None:
    """Print one result: what had to happen, what did, and the lines to do it by hand."""
    console = Console()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for axis, value in result["axes"].items():
        grid.add_row(axis, escape(value))
    grid.add_row("build", f"{build.name}, profile {build.profile} [dim]{seconds:.1f} s[/]")
    for side in ("expected", "seen"):
        rows = [f"{key}: {value}" for key, value in result[side].items() if value not in EMPTY]
        for number, text in enumerate(rows):
            grid.add_row(side if number == 0 else "", escape(text))
    if result["skip"]:
        grid.add_row("skipped", escape(result["skip"]))
    for problem in result["problems"]:
        grid.add_row("problem", bad(problem["text"]))
    for name in result["gaps"]:
        grid.add_row(
            "gap", escape(next(f"{one.name}: {one.title}" for one in gaps() if one.name == name))
        )
    fine = result["verdict"] == Verdict.MATCH
    grid.add_row("verdict", (good if fine else bad)(result["verdict"]))
    if result["detail"]:
        grid.add_row("QEMU said", escape(result["detail"]))
    console.print(grid)
    console.rule("QEMU", align="left")
    for line in result["qemu"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_page(path: Path, build: Build, report: Report) -> None:
    """Write the HTML page, with the other build's results beside these if there are any."""
    from qap.matrix.html.page import render

    other = Build(build.profile, not build.is_base, build.project)
    named = {result["cell"] for result in report.results}
    beside = [result for result in Journal(other).results() if result["cell"] in named]
    sides = {build.name: report.results, other.name: beside}
    shown = {name: [_on_page(one) for one in sides[name]] for name in ("fork", "base")}
    provenance = {
        f"{one.name}": " ".join(
            one.provenance().get(key, "?") for key in ("source", "package_version")
        )
        for one in (build, other)
        if sides[one.name]
    }
    facts = {
        **provenance,
        "run": f"{build.name}, {len(report.results)} cells in {report.seconds:.0f} s",
        "queue": ", ".join(patch.name.partition("-")[0] for patch in series.patches(build.project)),
    }
    page = render(
        {name: cells for name, cells in shown.items() if cells},
        title="qap matrix: VIRTIO_F_ACCESS_PLATFORM",
        facts=facts,
    )
    path.write_text(page)


def _on_page(result: dict[str, Any]) -> dict[str, Any]:
    problems = [problem["text"] for problem in result["problems"]]
    return {**result, "problems": problems, "gap": ", ".join(result["gaps"]) or None}


def _stale(cells: Sequence[Cell], results: Sequence[dict[str, Any]]) -> list[Gap]:
    """Gaps that the fork is said to have, and that no cell shows, though all were run."""
    occurring = {name for result in results for name in result["gaps"]}
    run = set(cells)
    return [
        gap for gap in gaps() if gap.reason and gap.name not in occurring and _all_run(gap, run)
    ]


def _all_run(gap: Gap, run: set[Cell]) -> bool:
    from qap.matrix.cell import cells

    concerned = [
        cell for cell in cells() if any(matches_axes(cell.axes, patterns) for patterns in gap.cells)
    ]
    return all(cell in run for cell in concerned)


def summary(
    results: Sequence[dict[str, Any]], stale: Sequence[Gap], build: Build, seconds: float
) -> None:
    """Print what came of it: verdicts by machine, gaps by name, and what nothing explains."""
    rows = []
    machines = list(dict.fromkeys(result["axes"]["machine"] for result in results))
    for machine in machines:
        found = Counter(one["verdict"] for one in results if one["axes"]["machine"] == machine)
        rows.append([machine, str(found.total()), *(_count(found, one) for one in Verdict)])
    total = Counter(one["verdict"] for one in results)
    rows.append(["all", str(total.total()), *(_count(total, one) for one in Verdict)])
    columns = ["machine", "cells", *Verdict]
    fresh = sum(one["fresh"] for one in results)
    title = f"matrix on the {build.name}: {len(results)} cells in {seconds:.0f} s, {fresh} QEMUs"
    table(title, columns, rows)
    console = Console()
    shown = [gap for gap in gaps() if any(gap.name in one["gaps"] for one in results)]
    if shown:
        lines = [
            [gap.name, str(sum(gap.name in one["gaps"] for one in results)), escape(gap.title)]
            for gap in shown
        ]
        table("gaps", ["gap", "cells", "what"], lines)
    for text, cells in _unexplained(results).items():
        console.print(f"{bad(str(len(cells)))} {escape(text)}")
        console.print(f"  {escape(cells[0])}", soft_wrap=True, highlight=False)
    for reason, count in Counter(one["skip"] for one in results if one["skip"]).items():
        console.print(f"{count} skipped: {escape(reason)}")
    for gap in stale:
        console.print(bad(f"configs/gaps.toml: {gap.name} no longer occurs: take its reason out"))


def _unexplained(results: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Cells by the problem that no gap explains, the most frequent ones first."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in results:
        if one["verdict"] in (Verdict.MISMATCH, Verdict.ERROR) and not one["gaps"]:
            for problem in one["problems"]:
                found[problem["text"][:LONGEST]].append(one["cell"])
    return dict(sorted(found.items(), key=lambda item: -len(item[1]))[:SHOWN])


def _count(found: Counter[str], verdict: Verdict) -> str:
    number = found[verdict]
    if not number:
        return "[dim]0[/]"
    shown = bad if verdict in (Verdict.MISMATCH, Verdict.ERROR) else good
    return shown(str(number)) if verdict is not Verdict.SKIP else str(number)
