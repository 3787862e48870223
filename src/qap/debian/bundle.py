"""Packages that belong together, and the suites to take them from, in order."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from qap.config import Model
from qap.debian.apt import Archive
from qap.debian.failure import OF_THE_MIRROR, REMEDY, Reason, Unavailable
from qap.debian.place import Place
from qap.debian.sums import check
from qap.errors import MissingError
from qap.lock import locked
from qap.paths import cache

RECORD = "taken.json"


class Package(Model):
    """A package that was brought.

    Attributes:
        name: with architecture.
        version: Debian's, without the epoch if apt leaves that out of the file's name.
        suite: where it came from.
    """

    name: str
    version: str
    suite: str


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
    def complete(self) -> bool:
        """Whether every file is still there."""
        return all(Archive(one.suite).has([one.name]) for one in self.packages)

    @property
    def line(self) -> str:
        """What was taken instead of what, and why."""
        first = self.passed_over[0]
        return f"{self.bundle} comes from {self.place} instead of {first.place}: {first.why}"


class Record(Model):
    """What is remembered of a bundle.

    Attributes:
        asked: the bundle, as Bundle._asked has it.
    """

    asked: str
    taken: Taken


def _records() -> Path:
    return cache() / "taken"


def everything_taken() -> list[Taken]:
    """What has been taken on this machine, by name."""
    found = [_read(record) for record in sorted(_records().glob(f"*/{RECORD}"))]
    return [record.taken for record in found if record is not None]


def _read(path: Path) -> Record | None:
    try:
        found = Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found if found.taken.complete else None


@dataclass(frozen=True)
class Bundle:
    """Packages that are taken together.

    Args:
        name: what it is, and what for: "virtiofsd:s390x", "kernel:s390x-forky".
        packages: names with architecture, as Archive.bring() takes them.
        places: where to take them from; the first that has them all is chosen once, and kept
            to until `renew`.
        follow: dependencies whose names start like this are taken along, and theirs.
    """

    name: str
    packages: tuple[str, ...]
    places: tuple[Place, ...]
    follow: tuple[str, ...] = ()

    @property
    def _home(self) -> Path:
        return _records() / self.name.replace(":", "_")

    @property
    def _asked(self) -> str:
        """Whose answer a record is: another one is made when the bundle changes."""
        asked = [self.packages, self.follow, [one.model_dump() for one in self.places]]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def taken(self) -> Taken | None:
        """Where it was taken from; None where it was not, or its files are gone."""
        found = _read(self._home / RECORD)
        return found.taken if found is not None and found.asked == self._asked else None

    def files(self) -> list[Path]:
        """The .debs (.dsc of a source), in the order of `packages`; brought unless cached.

        Raises:
            MissingError: no place has them all; says why each has not.
        """
        return [Archive(one.suite).bring([one.name])[0] for one in self.take().packages]

    def take(self, *, renew: bool = False) -> Taken:
        """Choose a place and bring everything; one line on stderr says if it is not the first.

        Args:
            renew: try the better places again, though another one has been chosen.
        Raises:
            MissingError: no place has it all; says why each has not.
        """
        with locked(self._home):
            known = self.taken()
            if known is not None and not (renew and known.passed_over):
                return known
            found = self._choose()
            record = Record(asked=self._asked, taken=found)
            (self._home / RECORD).write_text(record.model_dump_json(indent=2) + "\n")
        if found.passed_over and found != known:
            console = Console(stderr=True, soft_wrap=True, highlight=False)
            console.print(f"qap: {escape(found.line)}")
        return found

    def _choose(self) -> Taken:
        failed: list[tuple[Place, Unavailable]] = []
        for place in self.places:
            # What keeps the mirror away keeps all of it away; what is cached is still there.
            away = next((exc for _, exc in failed if exc.reason in OF_THE_MIRROR), None)
            try:
                packages = self._bring(place, away)
            except Unavailable as exc:
                failed.append((place, exc))
                continue
            passed = [
                PassedOver(place=one.title, reason=exc.reason, why=exc.why) for one, exc in failed
            ]
            return Taken(bundle=self.name, place=place.title, packages=packages, passed_over=passed)
        raise self._missing(failed)

    def _bring(self, place: Place, away: Unavailable | None) -> list[Package]:
        found: dict[str, Package] = {}
        ahead = self.packages
        while ahead:
            debs: dict[str, Path] = {}
            for suite, names in place.by_suite(ahead).items():
                archive = Archive(suite)
                if away is not None and not archive.has(names):
                    raise away
                debs |= zip(names, archive.bring(names), strict=True)
            for name in ahead:
                suite = place.suite_of(name)
                found[name] = Package(name=name, version=_version(debs[name]), suite=suite)
            followed = dict.fromkeys(self._followed(debs))
            ahead = tuple(name for name in followed if name not in found)
        return list(found.values())

    def _followed(self, debs: Mapping[str, Path]) -> list[str]:
        if not self.follow:
            return []
        return [
            f"{need}:{name.partition(':')[2]}"
            for name, deb in debs.items()
            for need in _depends(check(deb))
            if need.startswith(self.follow)
        ]

    def _missing(self, failed: Sequence[tuple[Place, Unavailable]]) -> MissingError:
        reasons: dict[Reason, Unavailable] = {exc.reason: exc for _, exc in reversed(failed)}
        whys = "; ".join(f"{place.title}: {exc.why}" for place, exc in failed)
        if len({exc.why for _, exc in failed}) == 1:
            whys = failed[0][1].why
        chief = failed[0][1]
        detail = "\n".join(exc.detail for exc in reasons.values())
        remedy = REMEDY[chief.reason]
        return MissingError(
            f"cannot bring {self.name}, and it is not cached ({whys}): {remedy}, then ./qap fetch",
            detail,
        )


def _version(deb: Path) -> str:
    """A package's version, from the name that apt gives its file."""
    return unquote(deb.stem.split("_")[1])


def _depends(deb: Path) -> list[str]:
    """The names of the packages that a .deb depends on, without versions."""
    argv = ["dpkg-deb", "--field", str(deb), "Depends"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [need.split()[0].split(":")[0] for need in said.strip().split(", ") if need]
