"""Packages of other Debian suites and architectures, without touching the system's apt.

A private apt configuration is derived from the machine's own sources: the same mirror
and the same keyring, another suite. apt checks the archive's signature and every
checksum; the system's lists, cache and dpkg status are neither read nor written.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.errors import MissingError, QapError
from qap.lock import locked
from qap.paths import cache

SUMS = "SHA256SUMS"
APT_S = 900.0
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
            'Acquire::Retries "3";\n'
        )
        return conf

    def _run(self, argv: Sequence[str], cwd: Path, wanted: str) -> str:
        conf = self._configure()
        try:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env={**os.environ, "APT_CONFIG": str(conf), "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                check=False,
                timeout=APT_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise TimeoutError(f"waited {APT_S:g} s for apt to bring {wanted}") from exc
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise MissingError(
                f"cannot bring {wanted} of Debian {self.suite} from {mirror()}, and it is "
                "not cached: connect to the network and run this again",
                "\n".join(errors or done.stderr.splitlines()[-5:]),
            )
        return done.stdout

    def update(self, wanted: str = "the package lists") -> None:
        """Bring the suite's package lists, to find `wanted` in."""
        self._run(["apt-get", "update", "--error-on=any"], self.home, wanted)

    def download(self, package: str, architecture: str) -> Path:
        """Bring one .deb; see `download_all`."""
        return self.download_all([f"{package}:{architecture}"])[0]

    def download_all(self, names: Sequence[str]) -> list[Path]:
        """Bring .debs, those that are not cached in one go; returns the files, to `check`.

        Args:
            names: with architecture, such as "busybox-static:s390x".
        Raises:
            MissingError: not cached, and no network or no such package.
        """
        with locked(self.home):
            missing = [name for name in names if not self._folder(name).exists()]
            if missing:
                wanted = missing[0] if len(missing) == 1 else f"{missing[0]} and others"
                with self._fresh(["apt-get", "download", *missing], wanted) as fresh:
                    for name in missing:
                        alone = fresh / name.replace(":", "_")
                        alone.mkdir()
                        (deb,) = fresh.glob(f"{name.partition(':')[0]}_*.deb")
                        deb.rename(alone / deb.name)
                        self._keep(alone, name)
        return [next(self._folder(name).glob("*.deb")) for name in names]

    def source(self, package: str) -> Path:
        """Bring a source package likewise; returns its .dsc."""
        argv = ["apt-get", "source", "--download-only", "--only-source", package]
        return self._brought(argv, f"source:{package}", "*.dsc")

    def _brought(self, argv: Sequence[str], wanted: str, pattern: str) -> Path:
        """What apt brings into an empty folder; kept in the cache once it is all there."""
        with locked(self.home):
            if not self._folder(wanted).exists():
                with self._fresh(argv, wanted) as fresh:
                    self._keep(fresh, wanted)
        return next(self._folder(wanted).glob(pattern))

    def _folder(self, wanted: str) -> Path:
        return self.home / "files" / wanted.replace(":", "_")

    @contextmanager
    def _fresh(self, argv: Sequence[str], wanted: str) -> Iterator[Path]:
        """A folder with what apt brings, which ends with the context unless it was kept."""
        self.update(wanted)
        files = self.home / "files"
        files.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=files) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            self._run(argv, fresh, wanted)
            yield fresh

    def _keep(self, folder: Path, wanted: str) -> None:
        _write_sums(folder)
        folder.rename(self._folder(wanted))


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return {path.name: file_sha256(path) for path in files}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_sums(folder: Path) -> None:
    lines = [f"{value}  {name}\n" for name, value in _sums(folder).items()]
    (folder / SUMS).write_text("".join(lines))


def check(download: Path) -> None:
    """Compare a download with what it was when apt had checked it, before using it.

    Raises:
        QapError: it is not the same; it has been removed.
    """
    folder = download.parent
    sums = folder / SUMS
    lines = sums.read_text().splitlines() if sums.exists() else []
    wanted = {name: value for value, name in (line.split("  ", 1) for line in lines)}
    found = _sums(folder)
    bad = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
    if bad:
        shutil.rmtree(folder)
        raise QapError(
            f"the cached {bad[0]} is corrupted (its SHA-256 is not the one it had when apt "
            "checked it): removed, run this again to download it anew"
        )
