"""Packages of other Debian suites and architectures, without touching the system's apt.

A private apt configuration is derived from the machine's own sources: the same mirror
and the same keyring, another suite. apt checks the archive's signature and every
checksum; the system's lists, cache and dpkg status are neither read nor written.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.debian.failure import OF_THE_MIRROR, Reason, Unavailable, unavailable
from qap.debian.sums import write_sums
from qap.errors import MissingError
from qap.lock import locked
from qap.paths import cache

SOURCE = ":source"
APT_S = 900.0
# A mirror that says nothing for so long, twice, is one that does not answer.
SILENCE_S = 15
# Lists of packages are not brought again sooner than this.
LISTS_S = 600.0
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirror() -> str:
    """The Debian mirror that this machine's own apt uses.

    Raises:
        MissingError: no apt here, or it has no Debian archive.
    """
    if shutil.which("apt-get") is None:
        raise MissingError(
            "apt-get is missing, and QEMU's source and the guests come through it: "
            "run on Debian or Ubuntu, or bring a tree with --source DIR|TARBALL"
        )
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL) $(CODENAME)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\n")
    rows = [line.split() for line in listed]
    for row in rows:
        if len(row) == 4 and row[1] == row[2] == "Debian" and "-" not in row[3]:
            return row[0]
    raise MissingError(
        "apt on this machine lists no Debian archive: run `apt-get update`, "
        "or add a Debian source beside the machine's own"
    )


@dataclass(frozen=True)
class Archive:
    """One Debian suite, seen through a private apt configuration.

    Args:
        suite: Debian's codename, such as "trixie".
    """

    suite: str

    @property
    def home(self) -> Path:
        return cache() / "apt" / self.suite

    def _configure(self) -> Path:
        if not KEYRING.exists():
            raise MissingError(f"{KEYRING} is missing: install debian-archive-keyring")
        uri = mirror()
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        sources = self.home / "debian.sources"
        wanted = (
            f"Types: deb deb-src\nURIs: {uri}\nSuites: {self.suite}\n"
            f"Components: main\nSigned-By: {KEYRING}\n"
        )
        if not sources.exists() or sources.read_text() != wanted:
            sources.write_text(wanted)
            self._updated.unlink(missing_ok=True)
        conf = self.home / "apt.conf"
        conf.write_text(
            f'Dir::State "{self.home}/state";\n'
            f'Dir::State::status "{self.home}/status";\n'
            f'Dir::Cache "{self.home}/cache";\n'
            f'Dir::Etc::sourcelist "{sources}";\n'
            'Dir::Etc::sourceparts "-";\n'
            'Dir::Etc::preferencesparts "-";\n'
            'APT::Architectures { "amd64"; "s390x"; };\n'
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "1";\n'
            f'Acquire::http::Timeout "{SILENCE_S}";\n'
            f'Acquire::https::Timeout "{SILENCE_S}";\n'
        )
        return conf

    def _run(self, argv: Sequence[str], cwd: Path, wanted: str) -> str:
        conf = self._configure()
        try:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                cwd=cwd,
                env={**os.environ, "APT_CONFIG": str(conf), "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                check=False,
                timeout=APT_S,
            )
        except subprocess.TimeoutExpired as exc:
            why = f"apt did not end within {APT_S:g} s"
            raise Unavailable(Reason.NO_NETWORK, why) from exc
        if done.returncode:
            raise unavailable(done.stderr, wanted)
        return done.stdout

    def update(self) -> None:
        """Bring the suite's lists of packages.

        Raises:
            Unavailable: not all of them came; what was there before is as it was.
        """
        self._run(["apt-get", "update", "--error-on=any"], self.home, "lists of packages")
        self._updated.touch()

    @property
    def _updated(self) -> Path:
        return self.home / "updated"

    def _lists_age(self) -> float:
        """Seconds since the lists came; infinite where none have yet."""
        try:
            return time.time() - self._updated.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def has(self, names: Sequence[str]) -> bool:
        """Whether all of these packages are in the cache."""
        return all(self._folder(name).exists() for name in names)

    def bring(self, names: Sequence[str]) -> list[Path]:
        """Bring packages, those that are not cached in one go; returns the files, to `check`.

        Args:
            names: with architecture, such as "busybox-static:s390x"; "qemu:source" is a source
                package, and its file the .dsc.
        Raises:
            Unavailable: not cached, and it can't be brought.
        """
        with locked(self.home):
            missing = [name for name in names if not self.has([name])]
            sources = [name for name in missing if name.endswith(SOURCE)]
            binaries = [name for name in missing if name not in sources]
            for name in sources:
                package = name.removesuffix(SOURCE)
                argv = ["apt-get", "source", "--download-only", "--only-source", package]
                with self._brought(argv, f"source of {package}") as fresh:
                    self._keep(fresh, name)
            if binaries:
                with self._brought(["apt-get", "download", *binaries], binaries[0]) as fresh:
                    for name in binaries:
                        alone = fresh / name.replace(":", "_")
                        alone.mkdir()
                        (deb,) = fresh.glob(f"{name.partition(':')[0]}_*.deb")
                        deb.rename(alone / deb.name)
                        self._keep(alone, name)
        return [self._file(name) for name in names]

    def _file(self, name: str) -> Path:
        pattern = "*.dsc" if name.endswith(SOURCE) else "*.deb"
        return next(self._folder(name).glob(pattern))

    def _folder(self, name: str) -> Path:
        return self.home / "files" / name.replace(":", "_")

    @contextmanager
    def _brought(self, argv: Sequence[str], wanted: str) -> Iterator[Path]:
        """A folder with what apt brings, which ends with the context unless it was kept.

        Lists that came lately will do, unless they name what the mirror no longer has; old
        ones will do where new ones don't come.
        """
        files = self.home / "files"
        files.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=files) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            recent = self._lists_age() < LISTS_S
            stale = None if recent else self._try_update()
            try:
                self._run(argv, fresh, wanted)
            except Unavailable as exc:
                if recent and exc.reason not in OF_THE_MIRROR:
                    self._try_update()
                    shutil.rmtree(fresh)
                    fresh.mkdir()
                    self._run(argv, fresh, wanted)
                elif exc.reason == Reason.NO_PACKAGE and stale is not None:
                    raise stale from exc
                else:
                    raise
            yield fresh

    def _try_update(self) -> Unavailable | None:
        try:
            self.update()
        except Unavailable as exc:
            return exc
        return None

    def _keep(self, folder: Path, name: str) -> None:
        write_sums(folder)
        folder.rename(self._folder(name))
