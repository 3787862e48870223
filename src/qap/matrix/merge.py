"""`qap merge`: what `qap matrix --json` wrote in parts, joined into one run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from qap.fork import series
from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.paths import Project, shown
from qap.matrix.cell import Cell
from qap.matrix.result import CellResult, restored
from qap.matrix.run import MatrixRun, stale
from qap.matrix.summary import summary


class Queue(BaseModel):
    """The patch queue of a part."""

    sha256: str
    patches: list[str]


class Part(BaseModel):
    """A part, as docs/json.md has it."""

    schema_: Literal[1] = Field(alias="schema")
    verb: Literal["matrix"]
    base: dict[str, Any]
    queue: Queue
    builds: tuple[dict[str, str]]
    packages: list[dict[str, Any]]
    seconds: float
    results: list[dict[str, Any]]


@dataclass(frozen=True)
class Merged:
    """The parts as one run.

    Attributes:
        build: what was under test, which need not be built here.
        record: what is known of it.
        provenance: keys of the joined JSON.
    """

    run: MatrixRun
    build: Build
    record: Mapping[str, str]
    provenance: Mapping[str, object]


def merge(paths: Sequence[Path], chosen: Sequence[Cell], project: Project) -> Merged:
    """Join parts and print the summary.

    Args:
        chosen: the cells that there have to be; others are left out.
    Raises:
        UsageError: a file is no part, is of another build or queue, or has a cell twice.
    """
    parts = {path: _read(path) for path in paths}
    first, *others = parts.items()
    record = first[1].builds[0]
    here = series.digest(project)
    if first[1].queue.sha256 != here:
        raise UsageError(f"{shown(first[0])} is of another queue than qemu/series here")
    for path, part in others:
        if (part.queue, part.builds) != (first[1].queue, first[1].builds):
            raise UsageError(f"{shown(path)} is of another build than {shown(first[0])}")
    build = Build(record["profile"], record["build"] == "base", project)
    found = _cells(parts, is_base=build.is_base)
    results = [found[cell] for cell in chosen if cell in found]
    missing = [cell for cell in chosen if cell not in found]
    seconds = sum(part.seconds for part in parts.values())
    gone = [] if build.is_base else stale(list(found), results)
    summary(results, gone, build, seconds, missing)
    packages = {json.dumps(each): each for part in parts.values() for each in part.packages}
    provenance = {
        "base": first[1].base,
        "queue": first[1].queue.model_dump(),
        "builds": [record],
        "packages": [packages[key] for key in sorted(packages)],
    }
    return Merged(MatrixRun(results, gone, seconds, missing), build, record, provenance)


def _read(path: Path) -> Part:
    try:
        return Part.model_validate(json.loads(path.read_text()))
    except OSError as exc:
        raise UsageError(f"{shown(path)}: {exc.strerror}") from exc
    except (ValidationError, ValueError) as exc:
        raise UsageError(f"{shown(path)} is not what ./qap matrix --json writes") from exc


def _cells(parts: Mapping[Path, Part], *, is_base: bool) -> dict[Cell, CellResult]:
    found: dict[Cell, CellResult] = {}
    where: dict[Cell, Path] = {}
    for path, part in parts.items():
        for line in part.results:
            result = restored(line, is_base=is_base)
            if result.cell in found:
                other = shown(where[result.cell])
                raise UsageError(f"{result.cell.name} is in both {other} and {shown(path)}")
            found[result.cell], where[result.cell] = result, path
    return found
