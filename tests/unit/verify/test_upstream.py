"""Upstream's tests on both builds: what counts as a loss, and what ends the run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.host.report import Report
from qap.verify.qtest_programs import TESTS, UpstreamTest
from qap.verify.upstream import ninja_targets, upstream

from ..project import PROFILE_TOML, Project

TOOLS = ("qemu-img", "qemu-storage-daemon")
ONE = UpstreamTest("one-test", "x86_64")
TWO = UpstreamTest("two-test", "x86_64", timeout=0.5)
PASSES = "echo 1..2; echo ok 1 /a; echo ok 2 /b"
Run = Callable[..., Report]


def program(build: Build, test: UpstreamTest, text: str) -> Path:
    path = build.folder / test.ninja_target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def builds(project: Project) -> tuple[Build, Build]:
    """A fork and a base of which only the tools have been built."""
    project.profile("small", PROFILE_TOML.replace('["qemu-img"]', str(list(TOOLS))))
    made = Build("small"), Build("small", is_base=True)
    for build in made:
        for path in build.tools().values():
            (build.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (build.folder / path).touch()
    return made


@pytest.fixture
def run(builds: tuple[Build, Build]) -> Run:
    """Run ONE, with a script for the fork and another for the base."""

    def ran(fork: str, base: str = PASSES) -> Report:
        for build, text in zip(builds, (fork, base), strict=True):
            program(build, ONE, text)
        return upstream(*builds, [ONE])

    return ran


def test_same_outcome_on_both_is_fine(run: Run) -> None:
    report = run(PASSES)
    assert report.ok
    assert report.verb == "test"
    (row,) = report.results
    assert (row["fork"]["ran"], row["base"]["ran"], row["differences"]) == (2, 2, [])


def test_failure_on_both_is_this_machines_and_no_loss(run: Run) -> None:
    fails = "echo 1..2; echo ok 1 /a; echo not ok 2 /b; exit 1"
    report = run(fails, fails)
    assert report.ok
    assert report.results[0]["base"]["problems"] == ["one-test (x86_64) on base: /b failed"]


@pytest.mark.parametrize(
    ("fork", "problem"),
    [
        (
            "echo 1..2; echo ok 1 /a; echo not ok 2 /b",
            "one-test (x86_64): /b: pass on base, fail on fork",
        ),
        (
            "echo 1..2; echo ok 1 /a; echo 'ok 2 /b # SKIP no device'",
            "one-test (x86_64): 2 tests ran on base, 1 on fork",
        ),
        ("echo 1..1; echo ok 1 /a", "one-test (x86_64): 2 tests ran on base, 1 on fork"),
        (f"{PASSES}; exit 3", "one-test (x86_64) ended with status 3 on fork only"),
    ],
    ids=["fails", "skips", "goes missing", "ends badly"],
)
def test_loss_on_the_fork_is_a_problem(run: Run, fork: str, problem: str) -> None:
    report = run(fork)
    assert not report.ok
    assert problem in report.results[0]["problems"]


def test_test_that_only_the_fork_runs_is_a_problem_too(run: Run) -> None:
    report = run(PASSES, "echo 1..2; echo ok 1 /a; echo 'ok 2 /b # SKIP no device'")
    assert report.results[0]["problems"] == ["one-test (x86_64): 1 tests ran on base, 2 on fork"]
    assert [difference["worse"] for difference in report.results[0]["differences"]] == [False]


def test_test_that_the_queue_adds_has_to_pass(run: Run) -> None:
    report = run("echo 1..3; for i in a b c; do echo ok 1 /$i; done")
    assert report.ok
    report = run("echo 1..3; echo ok 1 /a; echo ok 2 /b; echo not ok 3 /c; exit 1")
    added = "one-test (x86_64): a test that the queue adds fails"
    assert added in report.results[0]["problems"]


def test_nothing_run_proves_nothing(run: Run) -> None:
    report = run("echo 1..0", "echo 1..0")
    assert not report.ok


def test_stuck_program_does_not_stop_the_others(builds: tuple[Build, Build]) -> None:
    fork, base = builds
    program(fork, TWO, "echo 1..1; sleep 60 & wait")
    for build, test in ((base, TWO), (fork, ONE), (base, ONE)):
        program(build, test, PASSES)
    report = upstream(fork, base, [TWO, ONE])
    assert not report.ok
    stuck, fine = report.results
    assert "stuck before its first test was over" in stuck["problems"][-1]
    assert stuck["fork"]["planned"] is None
    assert fine["problems"] == []


def test_program_of_the_queue_has_to_pass_on_the_fork(builds: tuple[Build, Build]) -> None:
    mine = replace(ONE, added=True)
    program(builds[0], mine, PASSES)
    report = upstream(*builds, [mine])
    assert report.ok
    assert report.results[0]["base"] is None
    program(builds[0], mine, "echo 1..1; echo not ok 1 /a; exit 1")
    report = upstream(*builds, [mine])
    assert not report.ok
    assert report.results[0]["problems"] == ["one-test (x86_64) on fork: /a failed"]


def test_program_that_is_not_built_is_missed(builds: tuple[Build, Build]) -> None:
    program(builds[0], ONE, PASSES)
    with pytest.raises(MissingError, match=r"one-test \(base, profile small\) is not built"):
        upstream(*builds, [ONE])


def test_each_program_is_built_once() -> None:
    targets = ninja_targets()
    assert len(targets) == len(set(targets)) < len(TESTS)
    assert "tests/qtest/migration-test" in targets
