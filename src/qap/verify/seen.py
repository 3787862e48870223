"""What `qap test --json` has seen of the fork, so that `qap prove` need not run it again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from qap.fork import series
from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.paths import Project, shown
from qap.verify.runners import TestResult

# What a test's result depends on, beside the build.
CODE = ("configs", "src/qap", "tests")


class Queue(BaseModel):
    """The patch queue that was under test."""

    sha256: str


class Row(BaseModel):
    """A result, as docs/json.md has it for `test`."""

    test: str
    status: Literal["pass", "fail", "error", "skip"]
    seconds: float
    message: str


class Seen(BaseModel):
    """A run of `qap test`, as docs/json.md has it."""

    schema_: Literal[1] = Field(alias="schema")
    verb: Literal["test"]
    queue: Queue
    builds: list[dict[str, str]]
    seconds: float
    results: list[Row]


def seen(path: Path, fork: Build) -> list[TestResult]:
    """The results in a file of `qap test --json`.

    Raises:
        UsageError: it is no such file, it is of another build, or what the tests are made of has
            changed since that run began.
    """
    again = f"run ./qap test --json {shown(path)} again"
    try:
        run = Seen.model_validate(json.loads(path.read_text()))
        ended = path.stat().st_mtime
    except OSError as exc:
        raise UsageError(f"{shown(path)}: {exc.strerror}") from exc
    except (ValidationError, ValueError) as exc:
        raise UsageError(f"{shown(path)} is not what ./qap test --json writes") from exc
    if run.queue.sha256 != series.digest(fork.project) or fork.provenance() not in run.builds:
        raise UsageError(f"{shown(path)} is of another build of the fork than this: {again}")
    began = ended - run.seconds
    for file in _code(fork.project):
        if file.stat().st_mtime > began:
            raise UsageError(f"{shown(file)} is newer than {shown(path)}: {again}")
    return [TestResult(row.test, row.status, row.seconds, row.message) for row in run.results]


def _code(project: Project) -> Iterator[Path]:
    for folder in CODE:
        for path in (project.root / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
