"""Which machine a command line is for: emulator, machine type, version, and what it sets."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from qap.explain.command import Command
from qap.explain.knowledge import MachineRow, knowledge
from qap.explain.opts import boolean
from qap.host.errors import UsageError, unknown_name

# What distributions call an emulator whose name does not tell the target.
UNNAMED_TARGET = "x86_64"
VERSION = re.compile(r"-(\d+)\.(\d+)(\.\d+)?([+-].*)?$")
VENDOR = re.compile(r"-(rhel|centos|fedora)[\w.]*$")
SIMULATION = "x-confidential-sim"
# The newest that the project's QEMU has.
NEWEST = (10, 0)
# Up to this one the fork does not insist on what guests may not know.
LENIENT = (9, 2)


@dataclass(frozen=True)
class Machine:
    """The machine of a command line.

    Attributes:
        target: the emulator's, such as x86_64.
        type: what -machine calls it, or would.
        kind: its name in configs/explain.toml; "" if it isn't there.
        row: what is known of it; None if nothing is.
        version: of the type; None for the newest, and where a vendor has its own.
        confidential: the property that makes it a confidential guest, as it was given; "".
        simulated: that guest is simulated, by the fork.
        bypass: its root bus bypasses the IOMMU.
        iommu: what translates its root bus without being a device; "".
    """

    target: str
    type: str
    kind: str
    row: MachineRow | None
    version: tuple[int, int] | None
    confidential: str
    simulated: bool
    bypass: bool
    iommu: str
    root: str

    @property
    def lenient(self) -> bool:
        """Whether the fork lets old guests pass (machine types 9.2 and older)."""
        return self.version is not None and self.version <= LENIENT

    @property
    def shown(self) -> str:
        return f"{self.type} ({self.target})"


def machine_of(command: Command) -> Machine:
    """The machine of a command line; what is odd about it is noted there.

    Raises:
        UsageError: the target has no such machine type, or needs one to be named.
    """
    name = command.machine.get("type")
    target = _target(command, name)
    rows = {key: row for key, row in knowledge().machine.items() if target in row.targets}
    if not name:
        name = _default(target, rows)
    kind = next((kind for kind, row in rows.items() if _matches(name, row.match)), "")
    row = rows.get(kind)
    boards = knowledge().boards.get(target)
    if row is None and boards and not _matches(name, boards):
        raise unknown_name("machine type", name, [*rows, *boards])
    if row is None:
        command.left.append(f"-machine {name} of {target}: not known, so neither are its buses")
    root = row.root if row else ""
    if row and row.optional and not boolean(command.machine.get(row.optional)):
        root = ""
    return Machine(
        target,
        name,
        kind,
        row,
        _version(name, command),
        *_confidential(command),
        bool(row and row.bypass and boolean(command.machine.get("default-bus-bypass-iommu"))),
        _iommu(row, command),
        root,
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a machine type is one of these; what a distribution adds after a plus is its own."""
    return any(fnmatchcase(name.partition("+")[0], one) for one in patterns)


def _target(command: Command, name: str) -> str:
    program = PurePosixPath(command.program).name
    if program.startswith("qemu-system-"):
        return program.removeprefix("qemu-system-").split("-")[0]
    rows = knowledge().machine.values()
    guessed = [row.targets[0] for row in rows if name and _matches(name, row.match)]
    target = guessed[0] if guessed else UNNAMED_TARGET
    shown = program or "the file"
    command.notes.append(f"{shown} does not name its target: taken for {target}")
    return target


def _default(target: str, rows: dict[str, MachineRow]) -> str:
    for name, row in rows.items():
        if row.default:
            return name
    raise UsageError(f"qemu-system-{target} has no default machine type: -machine is missing")


def _version(name: str, command: Command) -> tuple[int, int] | None:
    if VENDOR.search(name):
        command.notes.append(f"{name} is a vendor's own: taken for the newest one")
        return None
    codenames = [part for part in name.split("-") if part in knowledge().versions]
    known = knowledge().versions[codenames[0]] if codenames else ""
    match = VERSION.search(f"-{known}" if known else name)
    if match is None:
        return None
    version = int(match[1]), int(match[2])
    if known:
        command.notes.append(f"{name} is a distribution's own: taken for version {known}")
    elif match[4]:
        command.notes.append(f"{name} is a distribution's own: taken for {match[1]}.{match[2]}")
    if version > NEWEST:
        command.notes.append(f"{name} is newer than QEMU 10.0, on which this is founded")
    return version


def _confidential(command: Command) -> tuple[str, bool]:
    for key in ("confidential-guest-support", "memory-encryption"):
        if name := command.machine.get(key):
            found = command.objects.get(name)
            if found is None:
                command.left.append(f"{key}={name}: there is no such -object")
            return f"{key}={name}", bool(found and found.get("qom-type") == SIMULATION)
    return "", False


def _iommu(row: MachineRow | None, command: Command) -> str:
    if row is None:
        return ""
    if row.translates:
        return row.translates
    if row.iommu:
        key, value = row.iommu
        given = command.machine.get(key)
        if given and (given == value or boolean(given)):
            return f"{key}={given}"
    return ""
