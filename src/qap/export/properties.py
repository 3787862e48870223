"""The device properties that a patch adds, read from its diff."""

import re
from dataclasses import dataclass

DEFINED = re.compile(r'DEFINE_PROP_\w+\(\s*"([^"]+)",\s*(\w+),([^()]*)\)')
COMPATIBLE = re.compile(r'\{\s*"([^"]+)",\s*"([^"]+)",\s*"([^"]+)"\s*\}')


@dataclass(frozen=True)
class Property:
    """A property that a patch adds to a type of device.

    Attributes:
        of: the QOM type for which older machine types set another value; else the C type that it
            stands in.
        default: as QEMU's source has it, such as true or ON_OFF_AUTO_AUTO.
        older: its value for those machine types; None if it is the same.
    """

    name: str
    of: str
    default: str
    older: str | None


def properties(diff: str) -> list[Property]:
    """The properties that a diff adds, by name.

    A definition that the diff also removes is moved or changed, not added, and one in a file
    that the diff adds is part of a new type. Compatibility properties are QEMU's GlobalProperty
    triples: type, property, value.
    """
    changed = "".join(part for part in diff.split("\ndiff --git ") if "\nnew file" not in part)
    added, removed = _lines(changed, "+"), _lines(changed, "-")
    older = {name: (kind, value) for kind, name, value in COMPATIBLE.findall(added)}
    there = {name for name, _, _ in DEFINED.findall(removed)}
    found = {}
    for name, kind, arguments in DEFINED.findall(added):
        if name not in there:
            of, value = older.get(name, (kind, None))
            found[name] = Property(name, of, arguments.rpartition(",")[2].strip(), value)
    return [found[name] for name in sorted(found)]


def _lines(diff: str, sign: str) -> str:
    lines = diff.splitlines()
    return "\n".join(line[1:] for line in lines if line.startswith(sign) and line[:3] != sign * 3)
