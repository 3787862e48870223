"""The packages of a Debian suite, kept in the cache once apt has fetched them."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from qap.host.debian.apt import SOURCE, Apt
from qap.host.debian.failure import Reason, Unavailable
from qap.host.debian.sums import write_sums
from qap.host.lock import locked
from qap.host.paths import cache

# Younger lists of packages are not fetched again, unless a package in them is gone.
LISTS_S = 600.0


def version(file: Path) -> str:
    """A package's version, from the name that apt gives its file."""
    return unquote(file.stem.split("_")[1])


@dataclass(frozen=True)
class Suite:
    """One part of a suite. Packages are named without their architecture here.

    Args:
        name: Debian's codename, such as "trixie".
        part: Debian's name of an architecture, or "source".
        version: Debian's version that packages must have; "" for the newest.
    """

    name: str
    part: str
    version: str = ""

    @property
    def _apt(self) -> Apt:
        return Apt(cache() / "apt" / self.name / self.part, self.name, self.part)

    @property
    def _files(self) -> Path:
        return self._apt.home / "files"

    def file(self, package: str) -> Path | None:
        """A package's .deb (.dsc of a source); None if it is not in the cache."""
        pattern = "*.dsc" if self.part == SOURCE else f"{package}_*.deb"
        found = next((self._files / package).glob(pattern), None)
        # File names have no epoch.
        wanted = self.version.rpartition(":")[2]
        return found if found is None or wanted in ("", version(found)) else None

    def bring(self, packages: Sequence[str]) -> list[Path]:
        """Fetch packages unless all of them are cached; returns the files, to `check`.

        If one is missing, all are fetched again, so that their versions fit together.

        Raises:
            Unavailable: a package can't be fetched.
        """
        with locked(self._apt.home):
            if not all(self.file(package) for package in packages):
                self._bring(packages)
        return [file for package in packages if (file := self.file(package))]

    def forget(self, package: str) -> None:
        """Remove a package from the cache, so that it is fetched again."""
        with locked(self._apt.home):
            shutil.rmtree(self._files / package, ignore_errors=True)

    def _bring(self, packages: Sequence[str]) -> None:
        self._files.mkdir(exist_ok=True)
        for left in self._files.glob("tmp*"):
            shutil.rmtree(left)
        if self.part == SOURCE:
            for package in packages:
                words = ("source", "--download-only", "--only-source", self._asked(package))
                with self._brought(*words, wanted=package) as fresh:
                    self._keep(fresh, package)
            return
        names = [self._asked(f"{package}:{self.part}") for package in packages]
        with self._brought("download", *names, wanted=names[0]) as fresh:
            for package in packages:
                alone = fresh / package
                alone.mkdir()
                # If no package has this name and it has a dot, apt takes it as a pattern.
                deb = next(fresh.glob(f"{package}_*.deb"), None)
                if deb is None:
                    raise Unavailable(Reason.NO_PACKAGE, f"it has no {package}")
                deb.rename(alone / deb.name)
                self._keep(alone, package)

    def _asked(self, name: str) -> str:
        return f"{name}={self.version}" if self.version else name

    def _keep(self, folder: Path, package: str) -> None:
        write_sums(folder)
        shutil.rmtree(self._files / package, ignore_errors=True)
        folder.rename(self._files / package)

    @contextmanager
    def _brought(self, verb: str, *words: str, wanted: str) -> Iterator[Path]:
        """A folder with what apt fetched; removed at the end of the context if still there."""
        with tempfile.TemporaryDirectory(dir=self._files) as scratch:
            fresh = Path(scratch) / "fresh"

            def bring() -> None:
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                self._apt.run(verb, *words, cwd=fresh, wanted=wanted)

            if self._apt.lists_age() < LISTS_S:
                try:
                    bring()
                except Unavailable:
                    # The mirror may have changed since.
                    self._bring_with_new_lists(bring)
            else:
                self._bring_with_new_lists(bring)
            yield fresh

    def _bring_with_new_lists(self, bring: Callable[[], None]) -> None:
        """Update the lists, then fetch; if the update fails, try with the old lists."""
        stale: Unavailable | None = None
        try:
            self._apt.update()
        except Unavailable as exc:
            stale = exc
        try:
            bring()
        except Unavailable as exc:
            if stale is None:
                # The mirror has just answered, so other packages can still be fetched.
                exc.everywhere = exc.reason == Reason.NO_SPACE
                raise
            raise (stale if exc.reason == Reason.NO_PACKAGE else exc) from exc
