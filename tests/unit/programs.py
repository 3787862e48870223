"""Shell scripts that stand in for programs and keep a record of how they were called."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Programs:
    """Fake programs.

    Args:
        folder: where they are; `record` beside it has a line for each call.
    """

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder.with_suffix(".calls")

    def add(self, name: str, script: str = "") -> Path:
        """A program that records its name and arguments and then runs `script`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "{path.name} $*" >>"{self.record}"\n{script}\n')
        path.chmod(0o755)
        return path

    def real(self, *names: str) -> None:
        """Link real programs of this machine; their calls are not recorded."""
        for name in names:
            path = shutil.which(name)
            assert path, name
            (self.folder / name).symlink_to(path)

    def calls(self) -> list[str]:
        """The calls since the last call of this method."""
        text = self.record.read_text() if self.record.exists() else ""
        self.record.unlink(missing_ok=True)
        return text.splitlines()

    def in_front_of_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")
