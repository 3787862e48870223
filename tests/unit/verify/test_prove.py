"""The output of `qap prove` for a test that does not prove its patch."""

from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.fork.patch import Patch
from qap.host.errors import UsageError
from qap.verify import runners
from qap.verify.prove import chosen, prove
from qap.verify.runners import ERROR, FAIL, PASS, SKIP, TestResult

from ..project import BASE_TOML, Project, write

PATCH = """\
Subject: [PATCH] bus: ask

Test: tests/test_good.py::test_it
Test: tests/test_bad.py::test_it
---
"""


@pytest.fixture
def patch(tmp_path: Path) -> Patch:
    path = tmp_path / "0001-ask.patch"
    path.write_text(PATCH)
    return Patch("fence/0001-ask.patch", path)


def test_what_is_not_proven_stands_at_the_end_with_its_reason(
    patch: Patch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        good, bad = tests
        if build.is_base:
            return [TestResult(good, FAIL, 0.1), TestResult(bad, ERROR, 0.1, "no [answer]")]
        return [
            TestResult(good, PASS, 0.1),
            TestResult(f"{bad}[pci]", PASS, 0.1),
            TestResult(f"{bad}[ccw]", FAIL, 0.1, "status 4"),
        ]

    monkeypatch.setattr(runners, "pytest", run)

    report = prove([patch], fork=Build("lab"), base=Build("lab", is_base=True))

    assert not report.ok
    said = capsys.readouterr().out
    end = said[said.index("not proven:") :].splitlines()
    assert [line.strip() for line in end] == [
        "not proven: fence/0001-ask.patch: tests/test_bad.py::test_it",
        "base: error instead of fail",
        "no [answer]",
        "fork: mixed instead of pass",
        "status 4",
    ]


def test_what_the_fork_was_seen_to_do_is_not_run_again(
    patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        ran.append((build.name, tests))
        return [TestResult(test, FAIL if build.is_base else PASS, 0.1) for test in tests]

    monkeypatch.setattr(runners, "pytest", run)
    good, bad = (f"tests/test_{name}.py::test_it" for name in ("good", "bad"))
    known = [TestResult(f"{good}[{bus}]", PASS, 0.1) for bus in ("pci", "ccw")]
    builds = {"fork": Build("lab"), "base": Build("lab", is_base=True)}

    assert prove([patch], seen=known, **builds).ok
    assert ran == [("base", [good, bad]), ("fork", [bad])]
    known.append(TestResult(f"{bad}[pci]", FAIL, 0.1))
    assert not prove([patch], seen=known, **builds).ok
    assert ran[2:] == [("base", [good, bad])]


def test_test_that_can_not_run_here_is_named_with_its_reason(
    patch: Patch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts neither for the patch nor against it."""

    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        good, other = tests
        left_out = TestResult(other, SKIP, 0.1, f"the {build.name} is not built")
        return [TestResult(good, FAIL if build.is_base else PASS, 0.1), left_out]

    monkeypatch.setattr(runners, "pytest", run)

    report = prove([patch], fork=Build("lab"), base=Build("lab", is_base=True))

    assert report.ok
    assert [result["proven"] for result in report.results] == [True, False]
    said = capsys.readouterr().out
    end = said[said.index("not tried:") :].splitlines()
    assert [line.strip() for line in end] == [
        "not tried: fence/0001-ask.patch: tests/test_bad.py::test_it",
        "base: skip instead of fail",
        "the base is not built",
        "fork: skip instead of pass",
        "the fork is not built",
    ]


def test_patch_whose_tests_can_not_run_here_is_not_proven(
    patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        return [TestResult(test, SKIP, 0.1) for test in tests]

    monkeypatch.setattr(runners, "pytest", run)
    assert not prove([patch], fork=Build("lab"), base=Build("lab", is_base=True)).ok


def test_test_that_only_one_build_can_not_run_proves_nothing(
    patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        good, other = tests
        if build.is_base:
            return [TestResult(good, FAIL, 0.1), TestResult(other, SKIP, 0.1)]
        return [TestResult(good, PASS, 0.1), TestResult(other, PASS, 0.1)]

    monkeypatch.setattr(runners, "pytest", run)
    assert not prove([patch], fork=Build("lab"), base=Build("lab", is_base=True)).ok


GOOD, BAD = "tests/test_good.py::test_it", "tests/test_bad.py::test_it"


def settle(project: Project, *tests: str, table: str = "mended") -> None:
    """Make the base's file list these tests."""
    lines = "".join(f'"{test}" = "it asks, too"\n' for test in tests)
    write(project.base_toml, f"{BASE_TOML}[{table}]\n{lines}")


@pytest.mark.parametrize(
    ("mended", "statuses", "seen", "ok"),
    [
        ([BAD], (PASS, PASS), "mended", True),
        ([f"{BAD}[pci]"], (PASS, FAIL), FAIL, True),
        ([f"{BAD}[pci]"], (PASS, PASS), PASS, False),
        ([f"{BAD}[pci]"], (FAIL, FAIL), "not mended", False),
        ([BAD], (PASS, ERROR), "not mended", False),
        ([BAD], (SKIP, SKIP), SKIP, False),
    ],
)
def test_test_that_the_base_has_mended_must_pass_there(
    patch: Patch,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    mended: list[str],
    statuses: tuple[str, str],
    seen: str,
    ok: bool,
) -> None:
    settle(project, *mended)

    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        pci, ccw = statuses if build.is_base else (PASS, PASS)
        results = [TestResult(f"{BAD}[pci]", pci, 0.1), TestResult(f"{BAD}[ccw]", ccw, 0.1)]
        return [TestResult(GOOD, FAIL if build.is_base else PASS, 0.1), *results]

    monkeypatch.setattr(runners, "pytest", run)
    report = prove([patch], fork=Build("lab"), base=Build("lab", is_base=True))
    assert report.results[1]["base"] == seen
    assert report.ok is ok


@pytest.mark.parametrize(
    ("waiting", "ccw", "seen", "ok"),
    [
        (BAD, ERROR, ("waiting", "not waiting"), False),
        (f"{BAD}[ccw]", ERROR, (FAIL, PASS), True),
        (f"{BAD}[ccw]", PASS, (FAIL, "not waiting"), False),
    ],
)
def test_test_that_waits_for_what_is_not_ported_must_fail_on_the_fork(
    patch: Patch,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    waiting: str,
    ccw: str,
    seen: tuple[str, str],
    ok: bool,
) -> None:
    settle(project, waiting, table="waiting")

    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        outcomes = (FAIL, FAIL, FAIL) if build.is_base else (PASS, PASS, ccw)
        names = (GOOD, f"{BAD}[pci]", f"{BAD}[ccw]")
        return [TestResult(*it, 0.1) for it in zip(names, outcomes, strict=True)]

    monkeypatch.setattr(runners, "pytest", run)
    report = prove([patch], fork=Build("lab"), base=Build("lab", is_base=True))
    assert (report.results[1]["base"], report.results[1]["fork"]) == seen
    assert report.ok is ok


def test_patch_whose_tests_the_base_has_all_mended_is_not_proven(
    patch: Patch,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settle(project, GOOD, BAD)

    def run(
        tests: list[str], build: Build, *, quiet: bool = False, each_cpu: int = 1
    ) -> list[TestResult]:
        return [TestResult(test, PASS, 0.1) for test in tests]

    monkeypatch.setattr(runners, "pytest", run)
    assert not prove([patch], fork=Build("lab"), base=Build("lab", is_base=True)).ok
    assert "not proven: fence/0001-ask.patch: its tests are mended" in capsys.readouterr().out


def test_mended_test_that_no_patch_names_is_refused(project: Project) -> None:
    settle(project, BAD)
    project.add_patch("fence/0001-ask.patch", "bus: ask", ("hw/bus.c", "bus line 5\n", "asks\n"))
    with pytest.raises(UsageError, match=r"mended: no patch here names tests/test_bad"):
        chosen(project, [])


@pytest.mark.parametrize("name", ["fence", "fence/0001", "fence/0001-ask.patch"])
def test_patch_is_chosen_by_topic_number_or_name(project: Project, name: str) -> None:
    project.add_patch("fence/0001-ask.patch", "bus: ask", ("hw/bus.c", "bus line 5\n", "asks\n"))
    project.add_patch("vhost/0001-go.patch", "bus: go", ("hw/bus.c", "bus line 9\n", "goes\n"))
    assert [patch.name for patch in chosen(project, [name])] == ["fence/0001-ask.patch"]


def test_patch_that_is_not_there_is_named_with_the_nearest(project: Project) -> None:
    project.add_patch("fence/0001-ask.patch", "bus: ask", ("hw/bus.c", "bus line 5\n", "asks\n"))
    with pytest.raises(UsageError, match=r"'fence/0002': did you mean .*fence/0001"):
        chosen(project, ["fence/0002"])
