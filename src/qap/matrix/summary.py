"""What a run of the matrix prints, and the page that it writes."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qap.fork import series
from qap.fork.build import Build
from qap.host.report import bad, good, table
from qap.matrix.cell import Cell
from qap.matrix.gaps import Gap, gaps
from qap.matrix.html.page import render
from qap.matrix.journal import Journal
from qap.matrix.result import CellResult, Verdict

SHOWN = 12
LONGEST = 200
EMPTY: tuple[object, ...] = (None, "", [])
TITLE = "qap matrix: VIRTIO_F_ACCESS_PLATFORM"


def explain(result: CellResult, build: Build, seconds: float, why: str = "") -> None:
    """Print one result: what was expected, what was seen, and the lines to repeat it by hand.

    Args:
        why: it is not shown by a guest.
    """
    console = Console()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    if why:
        grid.add_row("shown by", escape(f"the device level, a driver in Python: {why}"))
    for axis, value in {**result.cell.axes, **result.cell.config.more}.items():
        grid.add_row(axis, escape(value))
    grid.add_row("build", f"{build.name}, profile {build.profile} [dim]{seconds:.1f} s[/]")
    for side, said in (("expected", result.expected), ("seen", vars(result.seen))):
        rows = [f"{key}: {value}" for key, value in said.items() if value not in EMPTY]
        for number, text in enumerate(rows):
            grid.add_row(side if number == 0 else "", escape(text))
    if result.skip:
        grid.add_row("skipped", escape(result.skip))
    for problem in result.problems:
        grid.add_row("problem", bad(problem.text))
    for gap in gaps():
        if gap.name in result.gaps:
            grid.add_row("gap", escape(f"{gap.name}: {gap.title}"))
    fine = result.verdict == Verdict.MATCH
    grid.add_row("verdict", (good if fine else bad)(result.verdict))
    if result.detail:
        grid.add_row("QEMU said", escape(result.detail))
    console.print(grid)
    console.rule("QEMU", align="left")
    for line in result.qemu:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_page(
    path: Path,
    build: Build,
    results: Sequence[CellResult],
    seconds: float,
    record: Mapping[str, str] | None = None,
) -> None:
    """Write the HTML page, with the other build's results beside these if there are any.

    Args:
        record: what is known of the build, if it is not here.
    """
    other = Build(build.profile, not build.is_base, build.project)
    cells = {result.cell for result in results}
    beside = [result for result in Journal(other).results() if result.cell in cells]
    sides = {build.name: results, other.name: beside}
    records = {build.name: record or build.provenance(), other.name: other.provenance()}
    provenance = {
        name: " ".join(records[name].get(key, "?") for key in ("source", "package_version"))
        for name in records
        if sides[name]
    }
    facts = {
        **provenance,
        "run": f"{build.name}, {len(results)} cells in {seconds:.0f} s",
        "queue": ", ".join(patch.name.partition("-")[0] for patch in series.patches(build.project)),
    }
    shown = {
        name: [_line(result) for result in sides[name]] for name in ("fork", "base") if sides[name]
    }
    path.write_text(render(shown, title=TITLE, facts=facts))


def _line(result: CellResult) -> dict[str, Any]:
    """A result as the page's JSON has it."""
    problems = [problem.text for problem in result.problems]
    return {**result.as_dict(), "problems": problems, "gap": ", ".join(result.gaps) or None}


def summary(
    results: Sequence[CellResult],
    stale: Sequence[Gap],
    build: Build,
    seconds: float,
    missing: Sequence[Cell] = (),
) -> None:
    """Print the results: verdicts by machine, gaps by name, and problems that no gap explains.

    Args:
        missing: cells of which there ought to be a result.
    """
    by_machine: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for result in results:
        by_machine[result.cell.config.machine][result.verdict] += 1
    by_machine["all"] = sum(by_machine.values(), Counter[Verdict]())
    rows = [
        [machine, str(counts.total()), *(_count(counts, verdict) for verdict in Verdict)]
        for machine, counts in by_machine.items()
    ]
    fresh = sum(result.fresh for result in results)
    title = f"matrix on the {build.name}: {len(results)} cells in {seconds:.0f} s, {fresh} QEMUs"
    table(title, ["machine", "cells", *Verdict], rows)
    console = Console()
    showing = Counter(name for result in results for name in result.gaps)
    if showing:
        lines = [
            [gap.name, str(showing[gap.name]), escape(gap.title)]
            for gap in gaps()
            if showing[gap.name]
        ]
        table("gaps", ["gap", "cells", "what"], lines)
    for text, cells in _unexplained(results).items():
        console.print(f"{bad(str(len(cells)))} {escape(text)}")
        console.print(f"  {escape(cells[0])}", soft_wrap=True, highlight=False)
    _skipped([result.cell for result in results if result.skip], console)
    if missing:
        said = f"{len(missing)} cells are in no file, such as {missing[0].name}"
        console.print(bad(said), soft_wrap=True, highlight=False)
    for gap in stale:
        console.print(bad(f"configs/gaps.toml: {gap.name} no longer occurs: take its reason out"))


def _skipped(cells: Sequence[Cell], console: Console) -> None:
    """Say why cells were skipped, and what runs them."""
    lab = [cell.config.device for cell in cells if cell.config.in_lab]
    if lab:
        devices = "|".join(sorted(set(lab)))
        text = f"they need the kernel lab: ./qap matrix --lab --select 'device={devices}'"
        console.print(f"{len(lab)} skipped: {text}", soft_wrap=True, highlight=False)
    others = Counter(cell.config.skip for cell in cells if not cell.config.in_lab)
    for reason, count in others.items():
        console.print(f"{count} skipped: {escape(reason)}")


def _unexplained(results: Sequence[CellResult]) -> dict[str, list[str]]:
    """Cells by the problem that no gap explains, the most frequent ones first."""
    cells: dict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.wrong and not result.gaps:
            for problem in result.problems:
                cells[problem.text[:LONGEST]].append(result.cell.name)
    return dict(sorted(cells.items(), key=lambda item: -len(item[1]))[:SHOWN])


def _count(counts: Counter[Verdict], verdict: Verdict) -> str:
    number = counts[verdict]
    if not number:
        return "[dim]0[/]"
    shown = bad if verdict in (Verdict.MISMATCH, Verdict.ERROR) else good
    return shown(str(number)) if verdict is not Verdict.SKIP else str(number)
