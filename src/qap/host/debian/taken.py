"""What has been taken from the archive, and the records of it."""

from pathlib import Path
from urllib.parse import unquote

from pydantic import ValidationError

from qap.host.debian.failure import Reason
from qap.host.debian.suite import Suite
from qap.host.paths import cache
from qap.host.toml import Model

RECORD = "taken.json"


class Package(Model):
    """A package that was brought.

    Attributes:
        name: with architecture, or "source" instead.
        version: Debian's, without the epoch if apt leaves that out of the file's name.
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
        """The .deb (.dsc of a source), None where it is gone or has been replaced."""
        package, _, part = self.name.partition(":")
        file = Suite(self.suite, part).file(package)
        return file if file is not None and version(file) == self.version else None


def version(file: Path) -> str:
    """A package's version, from the name that apt gives its file."""
    return unquote(file.stem.split("_")[1])


class PassedOver(Model):
    """A place that did not have a bundle.

    Attributes:
        place: as Place.title says it.
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
        place: as Place.title says it.
        packages: those asked for, in their order, and then those that were followed.
        passed_over: the better places that did not have it, in their order.
    """

    bundle: str
    place: str
    packages: list[Package]
    passed_over: list[PassedOver]

    @property
    def files(self) -> list[Path]:
        """The packages' files; fewer than packages where some are gone."""
        return [file for one in self.packages if (file := one.file)]

    @property
    def line(self) -> str:
        """What was taken instead of what, and why."""
        first = self.passed_over[0]
        return f"{self.bundle} comes from {self.place} instead of {first.place}: {first.why}"


class Record(Model):
    """What is remembered of a bundle.

    Attributes:
        asked: whose answer it is: another one is made when the bundle changes.
    """

    asked: str
    taken: Taken

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """A record; None where it, or a file that it speaks of, is gone or damaged."""
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return found if len(found.taken.files) == len(found.taken.packages) else None

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
    found = [Record.read(path) for path in records()]
    return [record.taken for record in found if record is not None]
