"""A queue of a few patches, and an export of it."""

from pathlib import Path

import pytest

from qap.export.folder import export

from ..project import Project, write

COVER = """\
# {topic}: the letter about it

## What users see

Lines of {topic} are others.

## How it was tested

By tests.

## What is left out

The rest.
"""
LONG = "bus: ask whoever is there, however many they are, and “quote” what they say to us"


@pytest.fixture
def queue(project: Project) -> Project:
    """Four patches in two topics, one with a long subject that is not ASCII, and qemu/base."""
    for name, subject, change in (
        ("fence/0001-bus-ask.patch", LONG, ("hw/bus.c", "bus line 5\n", "bus asks\n")),
        ("fence/0002-pci-tell.patch", "pci: tell", ("hw/pci.c", "pci line 9\n", "pci tells\n")),
        ("ccw/0001-ccw-add-a-file.patch", "ccw: add a file", ("hw/new.c", "", "new\n")),
        ("ccw/0002-bus-more.patch", "bus: more", ("hw/bus.c", "bus line 7\n", "bus tells\n")),
    ):
        project.add_patch(name, subject, change)
    for topic in ("fence", "ccw"):
        write(project.qemu / "covers" / f"{topic}.md", COVER.format(topic=topic))
    write(project.qemu / "users/fence.toml", f'"{LONG}" = "It asks."\n"pci: tell" = "It tells."\n')
    write(project.qemu / "users/ccw.toml", '"ccw: add a file" = "New."\n"bus: more" = "More."\n')
    write(project.root / "requirements.lock", "# made\npydantic==2.14.3\nfoo_bar==1.0  # why\n")
    write(project.root / "pyproject.toml", '[project]\ndependencies = ["Foo.Bar==1.0"]\n')
    project.bring()
    return project


@pytest.fixture
def exported(queue: Project, tmp_path: Path) -> Path:
    """The folder of an export that nobody has signed off."""
    folder = tmp_path / "out"
    export(queue, folder, None)
    return folder
