"""docs/ci: both templates are well-formed, and leave out no suite, patch or cell of the matrix."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from qap.cli.main import app
from qap.fork import series
from qap.host.paths import FIRST_SERIES
from qap.host.paths import Project as Here
from qap.verify.kit.ci_templates import FOLDER, SCHEMAS, Command, commands
from qap.verify.test import SUITES

from ..project import Project

ROOT = Here.here().root
PROGRAMS = ("./qap", ".venv/bin/pytest", ".venv/bin/avocado", "echo", "mkdir")
COMMANDS = commands()


def of(template: Path) -> list[list[str]]:
    return [shlex.split(each.line) for each in COMMANDS if each.template == template]


@pytest.mark.parametrize("template", SCHEMAS, ids=lambda path: path.name)
def test_template_is_what_the_service_takes(template: Path) -> None:
    program = Path(sys.prefix) / "bin" / "check-jsonschema"
    argv = [str(program), "--builtin-schema", SCHEMAS[template], str(template)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_template_is_tried() -> None:
    assert set(FOLDER.iterdir()) == set(SCHEMAS)


@pytest.mark.parametrize(
    "command",
    dict.fromkeys(COMMANDS),
    ids=lambda command: f"{command.template.stem} {command.job}: {command.line}",
)
def test_command_can_be_run(
    command: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program is there, and qap has the verb and its options."""
    assert "$" not in command.line.replace("$PWD", "").replace("$GITHUB_ENV", "")
    words = shlex.split(command.line)
    assert words[0] in PROGRAMS
    if words[0] == "./qap":
        monkeypatch.chdir(project.root)
        # Where its --json and --html go.
        (project.root / "results").mkdir(exist_ok=True)
        parse(words[1:])


def parse(words: list[str]) -> None:
    """Let qap read a command line, without running it.

    Raises:
        TyperException: there is no such verb or option, or an argument is missing.
    """
    command = typer.main.get_command(app)
    context = command.make_context("qap", list(words))
    while isinstance(command, TyperGroup):
        name, found, words = command.resolve_command(context, words)
        assert found
        command, context = found, found.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("line", ["matrx", "matrix --shrad 1/4", "merge --json results/all.json"])
def test_command_that_qap_does_not_know_is_found(line: str, project: Project) -> None:
    with pytest.raises(typer.TyperException):
        parse(line.split())


def test_templates_run_the_same_commands() -> None:
    github, gitlab = (
        {" ".join(words) for words in of(template) if words[0] != "echo"} for template in SCHEMAS
    )
    assert github == gitlab


@pytest.mark.parametrize("template", SCHEMAS, ids=lambda path: path.name)
def test_every_suite_is_run(template: Path) -> None:
    lines = of(template)
    run = {Path(word).name for words in lines for word in words if word.startswith("tests/")}
    run |= {word for words in lines if words[:2] == ["./qap", "test"] for word in words[2:]}
    assert run == set(SUITES)
    for word in (word for words in lines for word in words if word.startswith("tests/")):
        assert (ROOT / word).is_dir()


@pytest.mark.parametrize("template", SCHEMAS, ids=lambda path: path.name)
def test_every_patch_has_to_be_proven(template: Path) -> None:
    named = [words[2] for words in of(template) if words[:2] == ["./qap", "prove"]]
    topics = [patch.topic for patch in series.patches(Here.here(FIRST_SERIES))]
    assert named == list(dict.fromkeys(topics))


@pytest.mark.parametrize("template", SCHEMAS, ids=lambda path: path.name)
def test_what_this_project_runs_is_run(template: Path) -> None:
    """`test` is there as suites (`test_every_suite_is_run`)."""
    lines = [line.split() for line in (ROOT / ".ci/run").read_text().splitlines()]
    ours = {words[1] for words in lines if words[:1] == ["./qap"]}
    assert {"test", "prove"} <= ours
    assert ours - {"test"} <= {words[1] for words in of(template) if words[0] == "./qap"}


@pytest.mark.parametrize("template", SCHEMAS, ids=lambda path: path.name)
def test_shards_are_the_whole_matrix_and_each_is_merged(template: Path) -> None:
    parts = [words for words in of(template) if words[:2] == ["./qap", "matrix"]]
    shards = [words[words.index("--shard") + 1] for words in parts]
    assert len(shards) > 1
    assert shards == [f"{number + 1}/{len(shards)}" for number in range(len(shards))]
    (merge,) = [words for words in of(template) if words[:2] == ["./qap", "merge"]]
    for words in parts:
        assert Path(words[words.index("--json") + 1]).match(merge[2])
    assert not Path(merge[merge.index("--json") + 1]).match(merge[2])
