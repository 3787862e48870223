"""compat/: makes a released machine type what it is on stock QEMU, for guests to see."""

from collections.abc import Sequence
from pathlib import Path

from qap.export.properties import Property, properties
from qap.fork import series
from qap.host.paths import Project

EVERYWHERE, CCW = "stock.cfg", "stock-ccw.cfg"
CCW_TYPES = ("virtio-ccw-",)
HEAD = """\
# What the queue's properties are on stock QEMU: for `qemu-system-… -readconfig {name}`.
"""
ONE = """
[global]
  driver = "{of}"
  property = "{name}"
  value = "{older}"
"""


def write(project: Project, folder: Path) -> None:
    """Write configuration files of QEMU that set each property as machine types 9.2 have it."""
    folder.mkdir()
    for name, text in files(project).items():
        (folder / name).write_text(text)


def files(project: Project) -> dict[str, str]:
    """The files' contents by name; what only virtio-ccw has stands in one of its own.

    A QEMU without a type warns of the [global] that names it.
    """
    differ = [each for each in _properties(project) if each.older is not None]
    ccw = [each for each in differ if each.of.startswith(CCW_TYPES)]
    others = [each for each in differ if each not in ccw]
    return {EVERYWHERE: _text(EVERYWHERE, others), CCW: _text(CCW, ccw)}


def _properties(project: Project) -> list[Property]:
    return [each for patch in series.patches(project) for each in properties(patch.diff)]


def _text(name: str, chosen: Sequence[Property]) -> str:
    parts = [ONE.format(of=each.of, name=each.name, older=each.older) for each in chosen]
    return HEAD.format(name=name) + "".join(parts)
