"""What configs/ and qemu/base.toml say, as typed and checked objects."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qap.host.errors import UsageError, unknown_name
from qap.host.paths import CONFIGS, QEMU, shown


class Model(BaseModel):
    """A section of a TOML file: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Model):
    """Which upstream source the patches apply to (qemu/base.toml)."""

    package: str
    suites: tuple[str, ...] = Field(min_length=1)
    series: str
    tested: list[str]
    leave_out: list[str] = []


class Profile(Model):
    """How QEMU is configured (configs/profiles/NAME.toml).

    Attributes:
        firmware: images to build, as paths in the build folder; each has a Makefile beside it.
        firmwarepath: where QEMU looks for all others.
    """

    name: str
    purpose: str
    targets: list[str]
    tools: list[str] = []
    devices: str | None = None
    firmware: list[str] = []
    firmwarepath: list[str]
    configure: list[str]


class Guest(Model):
    """A guest that boots a Debian kernel (configs/guests.toml).

    Attributes:
        qemu: the emulator's target, as in qemu-system-TARGET.
        architecture: Debian's name for it.
        suites: the Debian suites that the kernel may come from, the best one first.
        console: the kernel's name for its console.
        machine: the machine type that boots it unless a scenario names another.
        cpu: QEMU's CPU model.
        memory: RAM in MiB.
        modules: kernel modules to load at every boot, before those of a device.
        append: kernel parameters beside the console's.
        boot_timeout: seconds from start to the guest's first prompt.
    """

    name: str
    qemu: str
    architecture: str
    suites: tuple[str, ...] = Field(min_length=1)
    kernel: str
    console: str
    machine: str
    cpu: str
    memory: int = 512
    modules: tuple[str, ...] = ()
    append: str = ""
    boot_timeout: float


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


def checked(model: type[M], values: dict[str, Any], path: Path) -> M:
    """Build `model` from `values`.

    Raises:
        UsageError: names the file, the first wrong key and what is wrong with it.
    """
    try:
        return model(**values)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{shown(path)}: {where}: {first['msg']}") from exc


@cache
def base() -> Base:
    path = QEMU / "base.toml"
    return checked(Base, read(path), path)


def profiles() -> list[str]:
    """Names of the build profiles."""
    return sorted(path.stem for path in (CONFIGS / "profiles").glob("*.toml"))


def _profile_path(name: str) -> Path:
    return CONFIGS / "profiles" / f"{name}.toml"


@cache
def profile(name: str) -> Profile:
    """A build profile; `inherits` adds its configure flags to another's.

    Raises:
        UsageError: no such profile, or its file is wrong.
    """
    if name not in profiles():
        raise unknown_name("profile", name, profiles())
    path = _profile_path(name)
    values = read(path)
    parent = values.pop("inherits", None)
    if parent is not None:
        if "inherits" in read(_profile_path(parent)):
            raise UsageError(f"{shown(path)}: {parent} inherits itself; one step is allowed")
        inherited = profile(parent).model_dump()
        flags = inherited["configure"] + values.pop("configure", [])
        values = {**inherited, **values, "configure": flags}
    return checked(Profile, {**values, "name": name}, path)


@cache
def guests() -> dict[str, Guest]:
    path = CONFIGS / "guests.toml"
    return {
        name: checked(Guest, {**values, "name": name}, path) for name, values in read(path).items()
    }


def guest(name: str) -> Guest:
    """A guest by name.

    Raises:
        UsageError: no such guest.
    """
    known = guests()
    if name not in known:
        raise unknown_name("guest", name, known)
    return known[name]
