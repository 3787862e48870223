"""qemu/bases/ and configs/profiles/: what is built, and how."""

from pathlib import Path

from pydantic import Field

from qap.host.errors import UsageError, unknown_name
from qap.host.paths import Project, shown
from qap.host.toml import Model, checked, read


class Base(Model):
    """Which upstream source the patches apply to (qemu/bases/SERIES.toml).

    Attributes:
        version: the version of the package that is wanted; "" for a suite's newest one.
        leave_out: folders of the source that no build reads.
        dropped: patches that this base does not need, each with the reason. A patch is named
            by topic and title, without its number: "fence/virtio-bus-show-…".
        not_ported: topics and patches that this base lacks although it needs them.
        mended: tests of patches that pass on this base without its patches, each with the reason;
            one with parameters in full, "…::test_it[pci]", if others of it fail.
        waiting: tests of patches, named likewise, that fail on this base with its patches, for
            they count on what is not ported; each with what that is.
    """

    package: str
    suites: tuple[str, ...] = Field(min_length=1)
    series: str
    version: str = ""
    tested: tuple[str, ...]
    leave_out: tuple[str, ...] = ()
    dropped: dict[str, str] = Field(default_factory=dict)
    not_ported: tuple[str, ...] = ()
    mended: dict[str, str] = Field(default_factory=dict)
    waiting: dict[str, str] = Field(default_factory=dict)


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
    """The base of the project's trees.

    Raises:
        UsageError: its file is wrong.
    """
    path = project.base_toml
    found = checked(Base, read(path), path)
    if found.series != project.base_series:
        raise UsageError(f"{shown(path)}: series is {found.series}, unlike the file's name")
    return found


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
