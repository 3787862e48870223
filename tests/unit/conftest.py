"""Fixtures: a project with a small QEMU in a scratch folder, and fake programs."""

from pathlib import Path

import pytest

from qap.host import process

from .programs import Programs
from .project import Project


@pytest.fixture(autouse=True)
def uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that interrupts qap does not interrupt the ones after it."""
    monkeypatch.setattr(process, "_stopping", False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty queue and no qemu/base yet; qap works on it and not on this repository."""
    made = Project.make(tmp_path / "project")
    made.use(monkeypatch)
    return made


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A folder of fake programs at the front of PATH."""
    made = Programs(tmp_path / "programs")
    made.folder.mkdir()
    made.in_front_of_path(monkeypatch)
    return made
