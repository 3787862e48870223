"""TOML files as typed and checked objects."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qap.host.errors import UsageError
from qap.host.paths import shown


class Model(BaseModel):
    """A section of a TOML file: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def read(path: Path) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        UsageError: it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as exc:
        raise UsageError(f"{shown(path)} is missing") from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{shown(path)}: {exc}") from exc


def checked(model: type[M], values: dict[str, Any], path: Path, section: str = "") -> M:
    """Build `model` from `values`.

    Args:
        section: where in the file the values stand; "" if they are all of it.
    Raises:
        UsageError: names the file, the first wrong key and what is wrong with it.
    """
    try:
        return model(**values)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in (*([section] if section else []), *first["loc"]))
        raise UsageError(f"{shown(path)}: {where}: {first['msg']}") from exc
