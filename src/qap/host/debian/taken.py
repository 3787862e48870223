"""Records of what has been taken from the archive."""

from pathlib import Path

from pydantic import ValidationError

from qap.host.debian.failure import Reason
from qap.host.debian.suite import Suite, version
from qap.host.paths import cache
from qap.host.toml import Model

RECORD = "taken.json"


class Package(Model):
    """A package that was fetched.

    Attributes:
        name: with architecture, or "source" instead.
        version: Debian's, as in the file's name, where apt may leave out the epoch.
        suite: where it came from.
    """

    name: str
    version: str
    suite: str

    @classmethod
    def of(cls, name: str, suite: Suite, file: Path) -> "Package":
        return cls(name=name, version=version(file), suite=suite.name)

    @property
    def file(self) -> Path | None:
        """The .deb (.dsc of a source); None if it is gone or has been replaced."""
        package, _, part = self.name.partition(":")
        file = Suite(self.suite, part).file(package)
        return file if file is not None and version(file) == self.version else None

    def forget(self) -> None:
        """Remove it from the cache."""
        package, _, part = self.name.partition(":")
        Suite(self.suite, part).forget(package)


class PassedOver(Model):
    """A place that did not have a bundle.

    Attributes:
        place: its Place.title.
        reason: the kind of failure.
        why: in words.
    """

    place: str
    reason: Reason
    why: str


class Taken(Model):
    """Where a bundle was taken from.

    Attributes:
        bundle: its name.
        place: its Place.title.
        packages: those of Bundle.packages, in their order, and then those that were followed.
        passed_over: the better places that did not have it, in their order.
    """

    bundle: str
    place: str
    packages: list[Package]
    passed_over: list[PassedOver]

    @property
    def files(self) -> list[Path]:
        """The packages' files; fewer than packages if some are gone."""
        return [file for package in self.packages if (file := package.file)]

    def forget(self, prefix: str) -> None:
        """Remove the packages with such names from the cache, so that they are fetched again."""
        for package in self.packages:
            if package.name.startswith(prefix):
                package.forget()

    @property
    def line(self) -> str:
        """What was taken instead of what, and why."""
        first = self.passed_over[0]
        return f"{self.bundle} comes from {self.place} instead of {first.place}: {first.why}"


class Record(Model):
    """The record of a bundle.

    Attributes:
        asked: a hash of the bundle's definition: if that changes, the record is not used.
    """

    asked: str
    taken: Taken

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """A record; None if it is missing or damaged, or if one of its files is gone."""
        try:
            record = cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return record if len(record.taken.files) == len(record.taken.packages) else None

    def write(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_text(self.model_dump_json(indent=2) + "\n")
        fresh.replace(path)


def home(bundle: str) -> Path:
    """The folder with the record of a bundle."""
    return cache() / "taken" / bundle.replace(":", "_")


def records() -> list[Path]:
    """The records on this machine, by name."""
    return sorted((cache() / "taken").glob(f"*/{RECORD}"))


def everything_taken() -> list[Taken]:
    """What has been taken on this machine, by name."""
    loaded = [Record.read(path) for path in records()]
    return [record.taken for record in loaded if record is not None]
