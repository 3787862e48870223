"""compat/: makes a machine type what it is elsewhere, for guests to see."""

from collections.abc import Callable, Sequence
from pathlib import Path

from qap.export.properties import Property, properties
from qap.fork import series
from qap.host.errors import QapError
from qap.host.paths import FIRST_SERIES, Project

STOCK, FIRST_FORK = "stock", f"fork-{FIRST_SERIES}"
EVERYWHERE, CCW = f"{STOCK}.cfg", f"{STOCK}-ccw.cfg"
CCW_TYPES = ("virtio-ccw-",)
HEADS = {
    STOCK: "What the queue's properties are on stock QEMU",
    FIRST_FORK: f"What the queue's properties are on machine type {FIRST_SERIES} of its fork",
}
# Defaults as QEMU's source has them, and as an option has them.
VALUES = {"true": "on", "false": "off", "ON_OFF_AUTO_AUTO": "auto"}
ONE = """
[global]
  driver = "{of}"
  property = "{name}"
  value = "{value}"
"""


def write(project: Project, folder: Path) -> None:
    """Write configuration files of QEMU: `files`."""
    folder.mkdir()
    for name, text in files(project).items():
        (folder / name).write_text(text)


def files(project: Project) -> dict[str, str]:
    """The files' contents by name.

    The files of STOCK set each property as older machine types have it. A further base also has
    those of FIRST_FORK: its machine type of the first base is an older one, and that of the first
    base's fork is not.
    """
    differ = [each for each in _properties(project) if each.older is not None]
    made = _pair(STOCK, differ, lambda each: str(each.older))
    if not project.is_first:
        there = {(each.of, each.name) for each in _properties(project.on(FIRST_SERIES))}
        both = [each for each in differ if (each.of, each.name) in there]
        made |= _pair(FIRST_FORK, both, _value)
    return made


def chosen(project: Project, switch: str, *, ccw: bool) -> dict[str, str]:
    """The files of one switch, by name; none if this base has no such switch.

    Args:
        ccw: the QEMU has virtio-ccw.
    """
    wanted = (f"{switch}.cfg", f"{switch}-ccw.cfg") if ccw else (f"{switch}.cfg",)
    return {name: text for name, text in files(project).items() if name in wanted}


def _properties(project: Project) -> list[Property]:
    return [each for patch in series.patches(project) for each in properties(patch.diff)]


def _value(each: Property) -> str:
    """The property's default.

    Raises:
        QapError: it is of a kind that is not known here.
    """
    if each.default not in VALUES:
        raise QapError(f"{each.name} is {each.default} by default: say in compat.py what that is")
    return VALUES[each.default]


def _pair(
    switch: str, differ: Sequence[Property], value: Callable[[Property], str]
) -> dict[str, str]:
    """A switch's file, and one of what only virtio-ccw has.

    A QEMU without a type warns of the [global] that names it.
    """
    ccw = [each for each in differ if each.of.startswith(CCW_TYPES)]
    others = [each for each in differ if each not in ccw]
    made = {}
    for name, some in ((f"{switch}.cfg", others), (f"{switch}-ccw.cfg", ccw)):
        parts = [ONE.format(of=one.of, name=one.name, value=value(one)) for one in some]
        head = f"# {HEADS[switch]}: for `qemu-system-… -readconfig {name}`.\n"
        made[name] = head + "".join(parts)
    return made
