"""What `qap test` has seen of the fork is taken by `qap prove` only while it holds."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.fork import series
from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.verify.runners import PASS, TestResult
from qap.verify.seen import seen

from ..project import Project, write

BEGAN, SECONDS = 1_000_000, 100
BUILT = {"build": "fork", "profile": "small", "commit": "abc"}
RESULT = TestResult("tests/test_it.py::test_it[pci]", PASS, 0.5)


@dataclass(frozen=True)
class Run:
    """A run of `qap test` on a project: its file, and what was under test."""

    file: Path
    project: Project
    fork: Build

    def changed(self, **keys: object) -> None:
        """Change keys of the file, and leave its time as it is."""
        self.file.write_text(json.dumps({**json.loads(self.file.read_text()), **keys}))
        os.utime(self.file, (0, BEGAN + SECONDS))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    project = Project.make(tmp_path)
    fork = Build("small", project=project)
    write(fork.folder / "qap-build.json", json.dumps(BUILT))
    write(project.root / "tests/test_it.py", "")
    for path in project.root.rglob("*"):
        os.utime(path, (0, BEGAN - 1))
    made = Run(tmp_path / "test.json", project, fork)
    made.file.write_text("{}")
    row = {"suite": "unit", "test": RESULT.test, "status": PASS, "seconds": 0.5, "message": ""}
    made.changed(
        schema=1,
        verb="test",
        queue={"sha256": series.digest(project), "patches": []},
        builds=[BUILT],
        seconds=SECONDS,
        results=[row],
    )
    return made


def test_results_are_as_they_were(run: Run) -> None:
    assert seen(run.file, run.fork) == [RESULT]


@pytest.mark.parametrize(
    "keys", [{"queue": {"sha256": "0", "patches": []}}, {"builds": [{**BUILT, "commit": "abd"}]}]
)
def test_another_build_is_refused(run: Run, keys: dict[str, object]) -> None:
    run.changed(**keys)
    with pytest.raises(UsageError, match=r"is of another build of the fork than this: run \./qap"):
        seen(run.file, run.fork)


def test_tests_that_changed_since_the_run_began_are_refused(run: Run) -> None:
    os.utime(run.project.root / "tests/test_it.py", (0, BEGAN + 1))
    with pytest.raises(UsageError, match=r"test_it\.py is newer than .*test\.json: run \./qap"):
        seen(run.file, run.fork)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1, "verb": "matrix"}', "\0"])
def test_other_files_are_refused(run: Run, text: str) -> None:
    run.file.write_text(text)
    with pytest.raises(UsageError, match=r"is not what \./qap test --json writes"):
        seen(run.file, run.fork)


def test_missing_file_is_refused(run: Run) -> None:
    run.file.unlink()
    with pytest.raises(UsageError, match=r"test\.json: No such file or directory"):
        seen(run.file, run.fork)
