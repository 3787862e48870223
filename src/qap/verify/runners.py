"""Running the test suites and reading the result of each test."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.host.paths import Project

PASS, FAIL, ERROR, SKIP = "pass", "fail", "error", "skip"
AVOCADO_STATUS = {"PASS": PASS, "FAIL": FAIL, "SKIP": SKIP, "CANCEL": SKIP, "WARN": PASS}
# Tests of devices leave a CPU idle for a third of their time: they wait for another process.
EACH_CPU = 2


@dataclass(frozen=True)
class TestResult:
    """The result of a test.

    Attributes:
        test: its name for the framework, relative to the project's root.
        status: pass, fail (an assertion), error (it could not be carried out) or skip.
        seconds: how long it took.
        message: the first line of the failure's message.
    """

    __test__ = False

    test: str
    status: str
    seconds: float
    message: str = ""


def _run(name: str, *args: str, env: Mapping[str, str] | None = None) -> int:
    """Run a program of the virtual environment, its output on the terminal.

    Returns:
        its exit status.
    """
    program = str(Path(sys.prefix) / "bin" / name)
    # If qap dies without sending SIGINT itself, the kernel sends it to the program.
    owned = ["setpriv", "--pdeathsig", "INT", "--", program, *args]
    root = Project.here().root
    process = subprocess.Popen(
        owned, cwd=root, env={**os.environ, **(env or {})}, stdout=sys.stderr
    )
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


def pytest(
    tests: Iterable[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
) -> list[TestResult]:
    """Run tests by their pytest names, such as tests/unit/test_x.py::test_y.

    Args:
        each_cpu: how many at a time for each CPU.
    Raises:
        QapError: pytest could not run them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        argv = [*tests, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        argv += ["-q", "--no-header", *(["--tb=no", "--no-summary"] if quiet else [])]
        workers = each_cpu * len(os.sched_getaffinity(0))
        argv += ["-n", str(workers), "--dist", "worksteal"]
        status = _run("pytest", *argv, env=build.as_under_test())
        if status not in (0, 1) or not report.exists():
            raise QapError(f"pytest ended with status {status}: see its output above")
        return [_junit(case) for case in ET.parse(report).iter("testcase")]


def _junit(case: ET.Element) -> TestResult:
    name = f"{case.get('file')}::{case.get('name')}"
    seconds = float(case.get("time", "0"))
    for tag, status in (("failure", FAIL), ("error", ERROR), ("skipped", SKIP)):
        element = case.find(tag)
        if element is not None:
            message = (element.get("message") or "").splitlines()
            return TestResult(name, status, seconds, message[0] if message else "")
    return TestResult(name, PASS, seconds)


def avocado(
    tests: Iterable[str], build: Build, *, quiet: bool = False, tags: Iterable[str] = ()
) -> list[TestResult]:
    """Run tests by their avocado names, such as tests/avocado/x.py:Class.test_y.

    Args:
        tags: avocado's filters, such as "arch:s390x,-hotplug": run the tests that one of them
            selects; all if there is none.
    Raises:
        QapError: avocado could not run them.
    """
    results = build.project.results / "avocado" / build.name
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "results.json"
        argv = [*(["--show", "none"] if quiet else []), "run", *tests]
        argv += [f"--filter-by-tags={words}" for words in tags]
        argv += ["--disable-sysinfo", "--json", str(report), "--job-results-dir", str(results)]
        status = _run("avocado", *argv, env=build.as_under_test())
        if not report.exists():
            raise QapError(f"avocado ended with status {status}: see its output above")
        document = json.loads(report.read_text())
    return [_avocado(row) for row in document["tests"]]


def _avocado(row: Mapping[str, str]) -> TestResult:
    name = row["name"].partition("-")[2] if row["name"][:1].isdigit() else row["name"]
    status = AVOCADO_STATUS.get(row["status"], ERROR)
    message = (row.get("fail_reason") or "").splitlines()
    return TestResult(
        name, status, float(row.get("time_elapsed") or 0), message[0] if message else ""
    )


def check(name: str, argv: Sequence[str]) -> TestResult:
    """Run a checker such as ruff or mypy; it counts as a single test."""
    status = _run(*argv)
    return TestResult(name, PASS if status == 0 else FAIL, 0.0)
