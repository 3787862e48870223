"""`qap bench io`: what the fork costs where data flows, beside the base, in one run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host.progress import bar
from qap.host.report import Report, bad, good, table
from qap.measure.comparison import (
    FORK_TO_BASE,
    ON_TO_OFF,
    VARIANTS,
    Comparison,
    Measure,
    WorkloadRow,
)
from qap.measure.config_reads import COUNTED, TIMED, config_rates
from qap.measure.estimate import Estimate
from qap.measure.instructions import CASES, count
from qap.measure.throughput import READINGS, rates
from qap.measure.verdict import CostVerdict

Part = Literal["counts", "rates"]
PARTS: tuple[Part, ...] = ("counts", "rates")
# As few as have an interval of 95 %.
COUNT_ROUNDS = 6
RATE_ROUNDS = 25
CONFIG_ROUNDS = 100
TURN_S = 0.25
TITLES: dict[Measure, str] = {
    "instructions": "instructions a request",
    "config instructions": "instructions a read of configuration",
    "rate": "requests a second, TCG guests",
    "config rate": "reads of configuration a second, over QTest",
}

DECIMALS: dict[Measure, int] = {
    "instructions": 4,
    "config instructions": 4,
    "rate": 2,
    "config rate": 3,
}


def bench(fork: Build, base: Build, parts: Sequence[Part], times: int) -> Report:
    """Let both builds take turns at every workload, and print the tables.

    Args:
        times: how many times as many rounds as usual.
    Raises:
        QapError: a QEMU, a back-end or a guest did not do what it was to do.
    """
    start = time.monotonic()
    builds = {"fork": fork, "base": base}
    rows: list[WorkloadRow] = []
    if "counts" in parts:
        rows += _counts(builds, COUNT_ROUNDS * times)
    if "rates" in parts:
        rows += _rates(builds, RATE_ROUNDS * times)
        rows += _config_rates(builds, CONFIG_ROUNDS * times)
    seconds = time.monotonic() - start
    for measure, title in TITLES.items():
        chosen = [row for row in rows if row.measure == measure]
        if chosen:
            asked = f"fork/base {FORK_TO_BASE[measure]}, on/off {ON_TO_OFF[measure]}"
            _print(f"{title}; {asked}", chosen)
    Console().print(f"[dim]{seconds:.0f} s; ± as far as the true median may be, with 95 %[/]")
    return Report("bench", all(row.ok for row in rows), seconds, [row.as_dict() for row in rows])


@dataclass
class _Turns:
    """Counts turns for a progress bar."""

    progress: Callable[[int, int, str], None]
    total: int
    done: int = 0

    def __call__(self, what: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, what)


def _counts(builds: Mapping[str, Build], rounds: int) -> list[WorkloadRow]:
    with bar("instructions") as progress:
        cases = [*CASES, *COUNTED]
        turns = _Turns(progress, len(cases) * len(VARIANTS) * rounds)
        return [count(case, builds, rounds, turns) for case in cases]


def _rates(builds: Mapping[str, Build], rounds: int) -> list[WorkloadRow]:
    readings = sum(map(len, READINGS.values()))
    with bar("guests") as progress:
        turns = _Turns(progress, readings * len(VARIANTS) * (rounds + 1))
        return [row for device in READINGS for row in rates(device, builds, rounds, TURN_S, turns)]


def _config_rates(builds: Mapping[str, Build], rounds: int) -> list[WorkloadRow]:
    with bar("configuration") as progress:
        turns = _Turns(progress, len(TIMED) * len(VARIANTS) * rounds)
        return [config_rates(case, builds, rounds, turns) for case in TIMED]


def _print(title: str, rows: Sequence[WorkloadRow]) -> None:
    columns = ["iommu_platform", "", "base", "fork", "fork/base", "on/off"]
    table(title, columns, [line for row in rows for line in _lines(row)])
    for row in rows:
        for comparison in row.comparisons():
            if comparison.reason or comparison.verdict == CostVerdict.WORSE:
                reason = comparison.reason or "worse than is asked"
                if comparison.verdict == CostVerdict.UNSURE:
                    reason += "; look closer with --times"
                said = f"{row.name}: {comparison.of}/{comparison.to}: {escape(reason)}"
                Console(soft_wrap=True).print(said, highlight=False)


def _lines(row: WorkloadRow) -> Iterator[list[str]]:
    for state, name in zip(("off", "on"), row.name.split(", ", 1), strict=True):
        typical = [row.typical(f"{build} {state}") for build in ("base", "fork")]
        yield [
            name,
            state,
            *(f"{estimate.value:,.0f}" if estimate else "none" for estimate in typical),
            _ratio(row, row.compared(f"fork {state}", f"base {state}")),
            _ratio(row, row.compared("fork on", "fork off")) if state == "on" else "",
        ]


def _ratio(row: WorkloadRow, comparison: Comparison) -> str:
    if comparison.ratio is None:
        return "none"
    text = shown(comparison.ratio, DECIMALS[row.measure])
    if comparison.verdict == CostVerdict.UNSURE:
        return f"{text} ?"
    return bad(text) if comparison.verdict == CostVerdict.WORSE else good(text)


def shown(ratio: Estimate, decimals: int) -> str:
    """A ratio and the longer way to an end of its interval, such as “1.001±0.004”."""
    away = max(ratio.high - ratio.value, ratio.value - ratio.low)
    return f"{ratio.value:.{decimals}f}±{away:.{decimals}f}"
