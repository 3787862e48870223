"""`qap lab run`: the tests that need the kernel's devices, by scenario."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape

from qap.fork.build import Build
from qap.host.errors import unknown_name
from qap.host.report import Report, bad, good, table
from qap.lab.settings import LabScenario, settings
from qap.verify import runners
from qap.verify.runners import PASS, SKIP

TESTS = "tests/lab"


def chosen(names: Sequence[str]) -> list[LabScenario]:
    """The scenarios of these names; all if none is given.

    Raises:
        UsageError: no such scenario.
    """
    known = settings().scenarios
    for name in names:
        if name not in known:
            raise unknown_name("scenario", name, known)
    return [known[name] for name in names or known]


def show(scenarios: Sequence[LabScenario]) -> None:
    """Print what there is."""
    rows = [[one.name, escape(one.purpose), f"{TESTS}/{one.name}"] for one in scenarios]
    table("what runs in the lab", ["scenario", "what it shows", "tests"], rows)


def run(scenarios: Sequence[LabScenario], build: Build) -> Report:
    """Run scenarios in an L1, and print a table of their results.

    Raises:
        QapError: pytest could not run them.
    """
    start = time.monotonic()
    results = runners.pytest([f"{TESTS}/{one.name}" for one in scenarios], build)
    seconds = time.monotonic() - start
    rows, records = [], []
    for one in scenarios:
        mine = [row for row in results if row.test.startswith(f"{TESTS}/{one.name}/")]
        wrong = [row for row in mine if row.status not in (PASS, SKIP)]
        shown = f"{len(mine) - len(wrong)} of {len(mine)}"
        rows.append([one.name, (bad if wrong or not mine else good)(shown), escape(one.purpose)])
        records += [{"scenario": one.name, **asdict(row)} for row in mine]
    title = f"in the lab, on the {build.name} ({seconds:.0f} s)"
    table(title, ["scenario", "as expected", "what it shows"], rows)
    ok = bool(records) and all(row["status"] in (PASS, SKIP) for row in records)
    return Report("lab", ok, seconds, records)
