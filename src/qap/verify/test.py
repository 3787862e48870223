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
from qap.verify.runners import EACH_CPU, PASS, SKIP, TestResult


def _lint() -> list[TestResult]:
    return [
        runners.check("ruff check", ["ruff", "check", "--quiet"]),
        runners.check("ruff format", ["ruff", "format", "--check", "--quiet"]),
        runners.check("mypy", ["mypy", "--no-error-summary"]),
        runners.check("lint-imports", ["lint-imports", "--no-cache", "--no-logo"]),
    ]


NIGHTLY = "nightly"
LAB = "lab"
# Each takes the build and the filters of avocado's tests.
SUITES: dict[str, Callable[[Build, Sequence[str]], list[TestResult]]] = {
    "lint": lambda build, tags: _lint(),
    "unit": lambda build, tags: runners.pytest(["tests/unit"], build),
    "qtest-py": lambda build, tags: runners.pytest(["tests/qtest-py"], build, each_cpu=EACH_CPU),
    LAB: lambda build, tags: runners.pytest(["tests/lab"], build),
    "avocado": lambda build, tags: runners.avocado(["tests/avocado"], build, tags=filters(tags)),
}


NEED_BUILDS = {"qtest-py", LAB, "avocado"}


def filters(tags: Sequence[str]) -> list[str]:
    """Filters of avocado, made such that the nightly tests run only where one asks for them.

    Args:
        tags: a filter each, with commas, such as "arch:s390x,-hotplug".
    """
    asked = [words.split(",") for words in tags] or [[]]
    named = {NIGHTLY, f"-{NIGHTLY}"}
    return [",".join(words if named & {*words} else [*words, f"-{NIGHTLY}"]) for words in asked]


def wants_nightly(tags: Sequence[str]) -> bool:
    """Whether one of these filters asks for the nightly tests."""
    return any(NIGHTLY in words.split(",") for words in tags)


def chosen(names: Sequence[str]) -> list[str]:
    """The suites of these names; all if none is given.

    Raises:
        UsageError: no such suite.
    """
    for name in names:
        if name not in SUITES:
            raise unknown_name("suite", name, SUITES)
    return list(names or SUITES)


def test(names: Sequence[str], build: Build, tags: Sequence[str] = ()) -> Report:
    """Run suites and print a table of their results.

    Args:
        tags: which avocado tests, as `filters` takes them.
    """
    start = time.monotonic()
    rows, results = [], []
    for name in names:
        Console(stderr=True).rule(name)
        began = time.monotonic()
        outcomes = SUITES[name](build, tags)
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
