"""The commands of the CI templates in docs/ci, as the jobs run them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pydantic import BaseModel, Field
from ruamel.yaml import YAML

from qap.host.paths import Project

FOLDER = Project.here().root / "docs/ci"
GITHUB, GITLAB = FOLDER / "github.yml", FOLDER / "gitlab-ci.yml"
# The schemas that check-jsonschema has of them.
SCHEMAS = {GITHUB: "vendor.github-workflows", GITLAB: "vendor.gitlab-ci"}
EXPRESSION = re.compile(r"\$\{\{ *matrix\.(\w+) *\}\}")
VARIABLE = re.compile(r"\$(\w+)")


@dataclass(frozen=True)
class Command:
    """A line that a job runs, without variables of the template.

    Attributes:
        template: the file.
        job: its name there.
        line: for a shell.
    """

    template: Path
    job: str
    line: str


class _Step(BaseModel):
    run: str = ""


class _Strategy(BaseModel):
    matrix: dict[str, list[str | int]] = {}


class _GithubJob(BaseModel):
    steps: list[_Step]
    strategy: _Strategy = _Strategy()


class _Github(BaseModel):
    jobs: dict[str, _GithubJob]


class _Parallel(BaseModel):
    matrix: list[dict[str, list[str | int]]]


class _GitlabJob(BaseModel):
    script: list[str] = []
    parallel: int | _Parallel = Field(1)


def commands() -> list[Command]:
    """Each command of both templates, once for each parallel job."""
    return [*_github(), *_gitlab()]


def _github() -> Iterator[Command]:
    for name, job in _Github.model_validate(_read(GITHUB)).jobs.items():
        lines = [line for step in job.steps for line in step.run.splitlines()]
        for values in _choices(job.strategy.matrix):
            for line in lines:
                yield Command(GITHUB, name, _filled(line, EXPRESSION, values))


def _gitlab() -> Iterator[Command]:
    for name, value in _read(GITLAB).items():
        if not isinstance(value, dict) or "script" not in value:
            continue
        job = _GitlabJob.model_validate(value)
        if isinstance(job.parallel, int):
            total = str(job.parallel)
            numbers = [str(number + 1) for number in range(job.parallel)]
            each = [{"CI_NODE_INDEX": number, "CI_NODE_TOTAL": total} for number in numbers]
        else:
            each = [values for row in job.parallel.matrix for values in _choices(row)]
        for values in each:
            for line in job.script:
                yield Command(GITLAB, name, _filled(line, VARIABLE, values))


def _read(path: Path) -> dict[str, object]:
    loaded: dict[str, object] = YAML(typ="safe", pure=True).load(path)
    return loaded


def _choices(axes: Mapping[str, Sequence[str | int]]) -> list[dict[str, str]]:
    """One value of each axis, in every combination."""
    return [dict(zip(axes, map(str, values), strict=True)) for values in product(*axes.values())]


def _filled(line: str, variable: re.Pattern[str], values: Mapping[str, str]) -> str:
    """The line with the values of its variables; a variable of the shell stays."""
    return variable.sub(lambda found: values.get(found[1], found[0]), line)
