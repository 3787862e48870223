"""The journal of a run: results as they come, so that an interrupted run can go on."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.paths import shown
from qap.machine import catalog
from qap.matrix import tables
from qap.matrix.cell import Cell
from qap.matrix.result import CellResult, restored


@dataclass(frozen=True)
class Journal:
    """BUILD.jsonl: what was run, then a result a line.

    Args:
        folder: where it is; results/matrix of the build's project if None.
    """

    build: Build
    folder: Path | None = None

    @property
    def path(self) -> Path:
        folder = self.folder or self.build.project.results / "matrix"
        return folder / f"{self.build.name}.jsonl"

    def _head(self) -> dict[str, Any]:
        state = hashlib.sha256(tables.PATH.read_bytes())
        for table in (catalog.MACHINES, catalog.VIOMMUS, catalog.DEVICES):
            state.update(catalog.path(table).read_bytes())
        return {"build": self.build.provenance(), "matrix": state.hexdigest()}

    def begin(self) -> None:
        """Forget what an earlier run left."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self._head()) + "\n")

    def append(self, result: CellResult) -> None:
        """Add a result."""
        with self.path.open("a") as file:
            file.write(f"{json.dumps(result.as_dict())}\n")

    def resume(self, cells: Iterable[Cell]) -> list[CellResult]:
        """Results of these cells from a run that was interrupted, judged anew.

        Raises:
            UsageError: there was none, or it was of another build or another matrix.
        """
        if not self.path.exists():
            raise UsageError(f"--resume: no run of the {self.build.name} was begun")
        text = self.path.read_text()
        head, *lines = text.splitlines() or [""]
        if _whole(head) != self._head():
            raise UsageError(
                f"--resume: {shown(self.path)} is of another build or another matrix: run it anew"
            )
        if not text.endswith("\n"):
            self.path.write_text("".join(f"{line}\n" for line in [head, *lines] if _whole(line)))
        wanted = {cell.name for cell in cells}
        records = [record for record in map(_whole, lines) if record and record["cell"] in wanted]
        return [restored(record, is_base=self.build.is_base) for record in records]

    def results(self) -> list[CellResult]:
        """What is there, of whatever build and matrix it was; empty if nothing is."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()[1:]
        return [result for line in lines if (result := self._of_now(line))]

    def _of_now(self, line: str) -> CellResult | None:
        """A result, or None if its cell or a field of its observation no longer exists."""
        whole = _whole(line)
        try:
            return restored(whole, is_base=self.build.is_base) if whole else None
        except (UsageError, TypeError, KeyError):
            return None


def _whole(line: str) -> dict[str, Any] | None:
    """A line, unless it was cut off where the run was interrupted."""
    try:
        record: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record
