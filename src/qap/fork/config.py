"""qemu/base.toml and configs/profiles/: what is built, and how."""

from pathlib import Path

from pydantic import Field

from qap.host.errors import UsageError, unknown_name
from qap.host.paths import Project, shown
from qap.host.toml import Model, checked, read


class Base(Model):
    """Which upstream source the patches apply to (qemu/base.toml)."""

    package: str
    suites: tuple[str, ...] = Field(min_length=1)
    series: str
    tested: tuple[str, ...]
    leave_out: tuple[str, ...] = ()


class Profile(Model):
    """How QEMU is configured (configs/profiles/NAME.toml).

    Attributes:
        firmware: images to build, as paths in the build folder; each has a Makefile beside it.
        firmwarepath: where QEMU looks for all other images.
    """

    name: str
    purpose: str
    targets: tuple[str, ...]
    tools: tuple[str, ...] = ()
    devices: str | None = None
    firmware: tuple[str, ...] = ()
    firmwarepath: tuple[str, ...]
    configure: tuple[str, ...]


def base(project: Project) -> Base:
    path = project.qemu / "base.toml"
    return checked(Base, read(path), path)


def profiles(project: Project) -> list[str]:
    """Names of the build profiles."""
    return sorted(path.stem for path in (project.configs / "profiles").glob("*.toml"))


def _path(project: Project, name: str) -> Path:
    return project.configs / "profiles" / f"{name}.toml"


def profile(project: Project, name: str) -> Profile:
    """A build profile; with `inherits`, its configure flags come after those of another.

    Raises:
        UsageError: no such profile, or its file is wrong.
    """
    if name not in profiles(project):
        raise unknown_name("profile", name, profiles(project))
    path = _path(project, name)
    values = read(path)
    parent = values.pop("inherits", None)
    if parent is not None:
        if "inherits" in read(_path(project, parent)):
            raise UsageError(f"{shown(path)}: {parent} inherits itself; one step is allowed")
        inherited = profile(project, parent).model_dump()
        flags = (*inherited["configure"], *values.pop("configure", ()))
        values = {**inherited, **values, "configure": flags}
    return checked(Profile, {**values, "name": name}, path)
