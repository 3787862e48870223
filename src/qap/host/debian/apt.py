"""apt with a private configuration, for another suite than the system's.

It uses the mirror of the machine's own sources and Debian's keyring. apt checks the
archive's signature and every checksum. The system's lists, cache and dpkg status are
neither read nor written.
"""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from qap.host.debian.failure import Reason, Unavailable, unavailable
from qap.host.errors import MissingError

SOURCE = "source"
APT_S = 900.0
# apt's timeout. A mirror that sends nothing for this long, twice, does not answer.
SILENCE_S = 15
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirror() -> str:
    """The Debian mirror that this machine's own apt uses.

    Raises:
        MissingError: there is no apt here.
        Unavailable: it has no Debian archive.
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
    raise Unavailable(Reason.NO_MIRROR, "apt on this machine lists no Debian archive")


@dataclass(frozen=True)
class Apt:
    """apt for one part of a suite, so that a broken index does not affect other parts.

    Args:
        home: the folder with its configuration, lists and cache.
        suite: Debian's codename, such as "trixie".
        part: Debian's name of an architecture, or "source".
    """

    home: Path
    suite: str
    part: str

    def run(self, verb: str, *words: str, cwd: Path, wanted: str) -> None:
        """Run apt-get in a folder.

        Args:
            wanted: what is fetched, for the message.
        Raises:
            Unavailable: it failed.
        """
        conf = self._configure()
        try:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", "--", "apt-get", verb, *words, *self._options()],
                cwd=cwd,
                env={**os.environ, "APT_CONFIG": str(conf), "LC_ALL": "C", "LANGUAGE": ""},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=APT_S,
            )
        except subprocess.TimeoutExpired as exc:
            why = f"apt did not end within {APT_S:g} s"
            raise Unavailable(Reason.OTHER, why) from exc
        if done.returncode:
            raise unavailable(done.stderr, wanted)

    def update(self) -> None:
        """Fetch the lists of packages.

        Raises:
            Unavailable: this failed; the old lists are still there.
        """
        self.run("update", "--error-on=any", cwd=self.home, wanted="lists of packages")
        self._updated.touch()

    def lists_age(self) -> float:
        """Seconds since the lists were fetched; infinite if they never were."""
        try:
            return time.time() - self._updated.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    @property
    def _updated(self) -> Path:
        return self.home / "updated"

    def _options(self) -> list[str]:
        """Options that the machine's apt.conf.d must not change: apt reads it after APT_CONFIG."""
        options = {
            "APT::Default-Release": "",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": str(SILENCE_S),
            "Acquire::https::Timeout": str(SILENCE_S),
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _configure(self) -> Path:
        if not KEYRING.exists():
            raise MissingError(f"{KEYRING} is missing: install debian-archive-keyring")
        uri = mirror()
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        types = "deb-src\n" if self.part == SOURCE else f"deb\nArchitectures: {self.part}\n"
        wanted = (
            f"Types: {types}URIs: {uri}\nSuites: {self.suite}\n"
            f"Components: main\nSigned-By: {KEYRING}\n"
        )
        sources = self.home / "debian.sources"
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
        )
        return conf
