"""A case as a file to attach to a bug report: what was asked, expected, done and said."""

import json
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from qap.host.errors import UsageError
from qap.host.paths import Project, cache
from qap.host.toml import Model
from qap.machine.recording import Recording
from qap.scenario.request import Request

FORMAT = 1
KIND = "qap repro bundle"
# What became of a guest that went on: keys of an observation, and words for both.
SEQUELS = (
    ("again", "then served again", "then not served again"),
    ("migrated", "migrated", "not migrated"),
)
# A key that only a bundle has, and the first one in it.
MARK = f'"kind": "{KIND}"'


class Bundle(Model):
    """The file, as JSON.

    Attributes:
        format: goes up when a key changes its meaning.
        request: what `qap repro` was asked for.
        versions: of qap, QEMU, the queue and the builds (docs/json.md).
        result: as `--json` has it; what was expected is in it.
        commands: how to repeat it by hand.
        qmp, console, qemu, traces: see Recording.
    """

    kind: Literal["qap repro bundle"] = "qap repro bundle"
    format: int = FORMAT
    request: Request
    versions: dict[str, Any]
    result: dict[str, Any]
    commands: tuple[str, ...] = ()
    qmp: tuple[str, ...] = ()
    console: tuple[str, ...] = ()
    qemu: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        request: Request,
        versions: Mapping[str, object],
        result: Mapping[str, Any],
        recording: Recording,
    ) -> Self:
        """The bundle of a case; no path of a home and no host name is in it."""
        said = result.get("seen", {}).get("commands") or result.get("qemu", [])
        texts = {"commands": said, **vars(recording)}
        named = {"versions": dict(versions), "result": dict(result), **texts}
        return cls.model_validate({"request": request, **_anonymous(named)})

    def write(self, path: Path) -> None:
        """Write it, a key on a line."""
        values = self.model_dump(mode="json")
        lines = [f'"{key}": {json.dumps(value)}' for key, value in values.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @property
    def outcome(self) -> str:
        """How it ended there: what was seen, and what was wrong with it."""
        return outcome(self.result)


def outcome(result: Mapping[str, Any]) -> str:
    """How a case ended, in words that can be compared; `result` is as --json has it."""
    seen = result["seen"]
    words = [str(seen["outcome"] or "went wrong")]
    if io := seen.get("io"):
        words.append(f"without its back-end a read {io}")
    for key, yes, no in SEQUELS:
        if seen.get(key) is not None:
            words.append(yes if seen[key] else no)
    return ", ".join(words)


def read(path: Path) -> Bundle:
    """A bundle of somebody.

    Raises:
        UsageError: it is none, or a part of one, or of a later format.
    """
    try:
        text = path.read_text()
    except OSError as exc:
        raise UsageError(f"--bundle-in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        text = ""
    if MARK not in text[: 4 * len(MARK)]:
        raise UsageError(f"--bundle-in {path}: no bundle of qap repro")
    try:
        values = json.loads(text)
    except json.JSONDecodeError as exc:
        raise UsageError(f"--bundle-in {path}: broken off or damaged in line {exc.lineno}") from exc
    found = values.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise UsageError(
            f"--bundle-in {path}: its format is {found}, and this qap knows {FORMAT}: "
            "take a later qap"
        )
    try:
        bundle = Bundle.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--bundle-in {path}: {where}: {first['msg']}") from exc
    if "outcome" not in bundle.result.get("seen", {}):
        raise UsageError(f"--bundle-in {path}: its result has no outcome")
    return bundle


def _names() -> dict[str, str]:
    """What would tell who and where somebody is, as patterns, and what takes its place."""
    scratch = re.escape(tempfile.gettempdir())
    patterns = {
        f"{scratch}/qap-[A-Za-z0-9_]+": "$DIR",
        re.escape(str(Project.here().root)): "$QAP",
        re.escape(str(cache())): "$CACHE",
        rf"{re.escape(str(Path.home()))}(?=/|\b)": "$HOME",
    }
    host = socket.gethostname()
    if host and host != "localhost":
        patterns[rf"\b{re.escape(host)}\b"] = "$HOST"
    return patterns


def _anonymous(values: Mapping[str, object]) -> dict[str, Any]:
    """The values with each text in them rid of names."""
    text = json.dumps(values)
    for pattern, instead in _names().items():
        text = re.sub(pattern, instead, text)
    cleaned: dict[str, Any] = json.loads(text)
    return cleaned
