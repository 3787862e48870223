"""`qap test`: runs the checkers and the test suites on the fork."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.console import Console

from qap.fork.build import Build
from qap.host.errors import unknown_name
from qap.host.report import Report, bad, good, table
from qap.verify import runners
from qap.verify.runners import PASS, SKIP, TestResult


def _lint(build: Build) -> list[TestResult]:
    return [
        runners.check("ruff check", ["ruff", "check", "--quiet"]),
        runners.check("ruff format", ["ruff", "format", "--check", "--quiet"]),
        runners.check("mypy", ["mypy", "--no-error-summary"]),
        runners.check("lint-imports", ["lint-imports", "--no-cache", "--no-logo"]),
    ]


SUITES: dict[str, Callable[[Build], list[TestResult]]] = {
    "lint": _lint,
    "unit": lambda build: runners.pytest(["tests/unit"], build),
    "qtest-py": lambda build: runners.pytest(["tests/qtest-py"], build),
    "avocado": lambda build: runners.avocado(["tests/avocado"], build),
}


NEED_BUILDS = {"qtest-py", "avocado"}


def chosen(names: Sequence[str]) -> list[str]:
    """The suites of these names; all if none is given.

    Raises:
        UsageError: no such suite.
    """
    for name in names:
        if name not in SUITES:
            raise unknown_name("suite", name, SUITES)
    return list(names or SUITES)


def test(names: Sequence[str], build: Build) -> Report:
    """Run suites and print a table of their results."""
    start = time.monotonic()
    rows, results = [], []
    for name in names:
        Console(stderr=True).rule(name)
        began = time.monotonic()
        outcomes = SUITES[name](build)
        counts = Counter(result.status for result in outcomes)
        fine = outcomes and set(counts) <= {PASS, SKIP}
        shown = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        spent = f"{time.monotonic() - began:.0f} s"
        rows.append([name, (good if fine else bad)(shown or "no tests"), spent])
        results += [{"suite": name, **asdict(result)} for result in outcomes]
    seconds = time.monotonic() - start
    table(f"qap test on the {build.name} ({seconds:.0f} s)", ["suite", "result", "time"], rows)
    ok = bool(results) and all(row["status"] in (PASS, SKIP) for row in results)
    return Report("test", ok, seconds, results)
