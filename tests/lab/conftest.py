"""Fixtures for the tests that need the kernel's devices: one L1 for all that a process runs."""

import re
import shutil
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from qap.fork.build import Build
from qap.host.paths import shown
from qap.lab.assigned import Assigned
from qap.lab.l1 import L1, NotUp

if TYPE_CHECKING:
    from _pytest.reports import TestReport

KEPT = "lab"


@pytest.fixture(scope="session")
def l1() -> Iterator[L1]:
    """L1, for the build under test, which runs it, too."""
    with ExitStack() as owned:
        failed = ""
        try:
            running = owned.enter_context(L1(Build.under_test()))
        except NotUp as exc:
            failed = str(exc)
        if failed:
            pytest.fail(failed, pytrace=False)
        if running.restarted:
            warnings.warn(f"L1 had to be started again: {running.restarted}", stacklevel=1)
        yield running


@pytest.fixture(scope="session")
def bound(l1: L1) -> Assigned:
    """A device behind a root port of L1, bound to vfio-pci."""
    return Assigned.behind(l1, "aer", "1c.0")


@pytest.fixture
def assigned(bound: Assigned) -> Iterator[Assigned]:
    """That device, without errors of an earlier test."""
    bound.forget_errors()
    yield bound
    bound.forget_errors()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, "TestReport", "TestReport"]:
    """Keep the logs of L1 and of what ran in it where a test fails, and say where."""
    report = yield
    l1 = getattr(item, "funcargs", {}).get("l1")
    if report.when == "call" and report.failed and isinstance(l1, L1):
        name = re.sub(r"[^\w.-]+", "-", item.name)
        target = Build.under_test().project.results / KEPT / name
        shutil.rmtree(target, ignore_errors=True)
        kept = ", ".join(file.name for file in l1.keep(target))
        report.sections.append(("kernel lab", f"in {shown(target)}: {kept}"))
    return report
