"""Packages that are used together, and the suites to take them from, in order."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qap.host.debian import taken
from qap.host.debian.failure import REMEDY, Unavailable
from qap.host.debian.place import Place
from qap.host.debian.sums import check
from qap.host.debian.taken import RECORD, Package, PassedOver, Record, Taken
from qap.host.errors import MissingError
from qap.host.lock import locked


class NotBrought(MissingError):
    """A bundle could not be fetched from any place.

    Attributes:
        chief: the main failure: the first that affects every place, or else the first.
    """

    def __init__(self, bundle: str, failed: Sequence[tuple[Place, Unavailable]]) -> None:
        self.chief = next((exc for _, exc in failed if exc.everywhere), failed[0][1])
        whys = [f"{place.title}: {exc.why}" for place, exc in failed]
        if len({exc.why for _, exc in failed}) == 1:
            whys = [self.chief.why]
        super().__init__(
            f"cannot bring {bundle}, and it is not cached ({'; '.join(whys)}): "
            f"{REMEDY[self.chief.reason]}, then ./qap fetch",
            "\n".join(dict.fromkeys(exc.detail for _, exc in failed if exc.detail)),
        )


@dataclass(frozen=True)
class Bundle:
    """Packages that are taken together.

    Args:
        name: such as "virtiofsd:amd64" or "kernel:s390x-forky".
        packages: names with architecture, such as "busybox-static:s390x"; "qemu:source" is a
            source package.
        places: where to take them from. The first that has them all is chosen, and stays
            chosen until `renew`.
        follow: prefixes of names; dependencies with such a name are taken, too, recursively.
    """

    name: str
    packages: tuple[str, ...]
    places: tuple[Place, ...]
    follow: tuple[str, ...] = ()

    @property
    def _home(self) -> Path:
        return taken.home(self.name)

    @property
    def _asked(self) -> str:
        asked = [self.packages, self.follow, [place.asked() for place in self.places]]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def taken(self) -> Taken | None:
        """Where it was taken from; None if it was not, or if its files are gone."""
        record = Record.read(self._home / RECORD)
        return record.taken if record is not None and record.asked == self._asked else None

    def files(self) -> list[Path]:
        """The .debs (.dsc of a source), in the order of `packages`; fetched unless cached.

        Raises:
            NotBrought: no place has them all; gives the reason for each place.
        """
        return self.take().files

    def take(self, *, renew: bool = False, away: Unavailable | None = None) -> Taken:
        """Choose a place and fetch everything; a line on stderr tells if it is not the first.

        Args:
            renew: try the better places again if another one was chosen before.
            away: why nothing can be fetched, if that is known; then only the cache is used.
        Raises:
            NotBrought: no place has it all; gives the reason for each place.
        """
        known = self.taken()
        if known is not None and not (renew and known.passed_over):
            return known
        with locked(self._home):
            known = self.taken()
            if known is not None and not (renew and known.passed_over):
                return known
            chosen = self._choose(away)
            if known is not None and known.place == chosen.place:
                return known
            Record(asked=self._asked, taken=chosen).write(self._home / RECORD)
        if chosen.passed_over:
            console = Console(stderr=True, soft_wrap=True, highlight=False)
            console.print(f"qap: {escape(chosen.line)}")
        return chosen

    def _choose(self, away: Unavailable | None) -> Taken:
        failed: list[tuple[Place, Unavailable]] = []
        for place in self.places:
            try:
                packages = self._bring(place, away)
            except Unavailable as exc:
                failed.append((place, exc))
                away = exc if exc.everywhere else away
                continue
            passed = [
                PassedOver(place=better.title, reason=exc.reason, why=exc.why)
                for better, exc in failed
            ]
            return Taken(bundle=self.name, place=place.title, packages=packages, passed_over=passed)
        raise NotBrought(self.name, failed)

    def _bring(self, place: Place, away: Unavailable | None) -> list[Package]:
        roots = [(place.suite_of(name), name.partition(":")[0]) for name in self.packages]
        cached = self.follow and any(suite.file(package) for suite, package in roots)
        try:
            return self._bring_all(place, away)
        except Unavailable as exc:
            if not cached or away is not None or exc.everywhere:
                raise
        # Cached packages may depend on packages that the archive no longer has.
        for suite, package in roots:
            suite.forget(package)
        return self._bring_all(place, away)

    def _bring_all(self, place: Place, away: Unavailable | None) -> list[Package]:
        brought: dict[str, Package] = {}
        ahead = self.packages
        while ahead:
            files: dict[str, Path] = {}
            for suite, names in place.by_suite(ahead).items():
                packages = [name.partition(":")[0] for name in names]
                if away is not None and not all(map(suite.file, packages)):
                    raise away
                files |= zip(names, suite.bring(packages), strict=True)
            for name in ahead:
                brought[name] = Package.of(name, place.suite_of(name), files[name])
            ahead = tuple(name for name in self._followed(files) if name not in brought)
        return list(brought.values())

    def _followed(self, files: Mapping[str, Path]) -> dict[str, None]:
        """The dependencies of these packages that `follow` selects, in their order."""
        if not self.follow:
            return {}
        return {
            f"{need}:{name.partition(':')[2]}": None
            for name, file in files.items()
            for need in _depends(check(file))
            if need.startswith(self.follow)
        }


def _depends(deb: Path) -> list[str]:
    """The names of the packages that a .deb depends on, without versions."""
    argv = ["dpkg-deb", "--field", str(deb), "Depends"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [need.split()[0].split(":")[0] for need in said.strip().split(", ") if need]
