"""`qap run`: every scenario on fork and base, side by side."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host.process import stop_all
from qap.host.report import Report, bad, good, shortened, table
from qap.oracle.features import FeatureBit
from qap.oracle.fence import Outcome
from qap.scenario.events import expected_loss, unmigratable
from qap.scenario.observation import Observation
from qap.scenario.scenario import Scenario
from qap.scenario.trial import Trial

# Columns of a terminal that has room for what was seen.
WIDE = 110


@dataclass(frozen=True)
class ScenarioRow:
    """A scenario with what both builds did."""

    scenario: Scenario
    fork: Observation
    base: Observation

    @property
    def problems(self) -> list[str]:
        """Everything that is not as expected, in words; empty if all is well."""
        lines = problems(self.scenario, self.fork, "fork")
        wanted = self.scenario.base
        if wanted is not None and self.base.outcome != wanted:
            lines.append(f"base: expected {wanted}, saw {_seen(self.base)}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.scenario.name,
            "title": self.scenario.title,
            "scenario": self.scenario.model_dump(exclude={"name"}),
            "expected": asdict(self.scenario.expected()),
            "fork": asdict(self.fork),
            "base": asdict(self.base),
            "problems": self.problems,
        }


def problems(scenario: Scenario, seen: Observation, build: str) -> list[str]:
    """Where an observation differs from the fence table; `build` starts each line."""
    expected = scenario.expected(is_base=build == "base")
    if seen.outcome != expected.outcome:
        return [f"{build}: expected {expected.outcome} ({expected.why}), saw {_seen(seen)}"]
    if expected.outcome == Outcome.WORKS:
        accepted = FeatureBit.ACCESS_PLATFORM in seen.features
        if accepted != expected.offered:
            actual = "accepted" if accepted else "not accepted"
            wanted = "offered" if expected.offered else "not offered"
            return [
                f"{build}: bit {FeatureBit.ACCESS_PLATFORM.value} must be {wanted}, "
                f"and was {actual}"
            ]
        packed = FeatureBit.RING_PACKED in seen.features
        if packed != scenario.packed_expected:
            return [f"{build}: packed rings are {'' if packed else 'not '}used"]
        return [f"{build}: {line}" for line in _sequel(scenario, seen)]
    return []


def _sequel(scenario: Scenario, seen: Observation) -> Iterator[str]:
    """What is not as expected once its back-end was killed, or its VM migrated."""
    if loss := expected_loss(scenario.kind, scenario):
        if loss.io and seen.io and seen.io != loss.io:
            yield f"without its back-end the guest's read {seen.io}, expected {loss.io}: {loss.why}"
        if seen.again != loss.again:
            yield f"served again: {seen.again}, expected {loss.again}: {loss.why}"
    if scenario.migrate:
        keeps = unmigratable(scenario.kind, scenario.machine_type, scenario)
        if seen.migrated and keeps:
            yield f"the VM migrated, and QEMU migrates none with {keeps}"
        if not seen.migrated and not keeps:
            yield f"the VM did not migrate: {seen.migration_error}"


def _seen(seen: Observation) -> str:
    return str(seen.outcome) if seen.outcome else f"an error: {seen.error}"


def run(scenarios: Sequence[Scenario], fork: Build, base: Build, jobs: int | None) -> Report:
    """Carry out every scenario on both builds and print the table.

    Args:
        jobs: trials at a time; as many as there are processors if None.
    """
    start = time.monotonic()
    console = Console(stderr=True)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        try:
            pending = [
                (
                    scenario,
                    pool.submit(Trial(scenario, fork).run),
                    pool.submit(Trial(scenario, base).run),
                )
                for scenario in scenarios
            ]
            rows = [_finished(console, *row) for row in pending]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_all()
            raise
    seconds = time.monotonic() - start
    _print(rows, seconds)
    ok = not any(row.problems for row in rows)
    return Report("run", ok, seconds, [row.as_dict() for row in rows])


def _finished(
    console: Console, scenario: Scenario, fork: "Future[Observation]", base: "Future[Observation]"
) -> ScenarioRow:
    row = ScenarioRow(scenario, fork.result(), base.result())
    mark = bad("✗") if row.problems else good("✓")
    console.print(
        f"{mark} {scenario.name}: fork {_seen(row.fork)[:40]}, base {_seen(row.base)[:40]}"
    )
    return row


def _unprotected(row: ScenarioRow) -> str:
    works = row.scenario.confidential and row.base.outcome == Outcome.WORKS
    return ", unprotected" if works else ""


def _cell(seen: Observation, fine: bool, note: str = "") -> str:
    text = f"{seen.outcome}{note}" if seen.outcome else "error"
    shown = good(text) if fine else bad(text)
    return f"{shown} [dim]{seen.seconds:.1f} s[/]"


def _print(rows: Sequence[ScenarioRow], seconds: float) -> None:
    cells = []
    for row in rows:
        wrong = row.problems
        fine_fork = not any(line.startswith("fork") for line in wrong)
        fine_base = not any(line.startswith("base") for line in wrong)
        checks = dict.fromkeys(text.partition(":")[0] for text in row.fork.said)
        cells.append(
            [
                row.scenario.name,
                _cell(row.base, fine_base, _unprotected(row)),
                _cell(row.fork, fine_fork),
                shortened(row.fork.features),
                escape("; ".join(checks)),
            ]
        )
    columns = ["scenario", "base", "fork", "negotiated bits", "seen on the fork"]
    if Console().width < WIDE:
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    table(f"iommu_platform=on, base beside fork ({seconds:.0f} s)", columns, cells)
    for row in rows:
        for line in row.problems:
            Console().print(bad(f"{row.scenario.name}: {line}"))
