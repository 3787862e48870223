"""git for generated trees: no user configuration, no hooks, the same result everywhere."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qap.host.errors import MissingError, QapError

NAME = "qemu-access-platform"
EMAIL = "devel@qemu-access-platform.invalid"


class GitError(QapError):
    """A git command failed; `detail` is its output."""


@dataclass(frozen=True)
class Git:
    """git in one repository.

    Args:
        root: the work tree.
    """

    root: Path

    def __call__(
        self, *argv: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a git command; returns its stdout.

        Raises:
            MissingError: git is not installed.
            GitError: git ended with a non-zero status.
        """
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *argv],
                input=stdin.encode("utf-8", "surrogateescape") if stdin is not None else b"",
                env={**self._environment(), **(env or {})},
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as exc:
            raise MissingError("git is missing: install git") from exc
        if done.returncode:
            said = (done.stderr + done.stdout).decode("utf-8", "replace").strip()
            raise GitError(f"git {argv[0]} failed in {self.root}", said)
        return done.stdout.decode("utf-8", "surrogateescape")

    def init(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self("init", "-q", "-b", "main")
        self("config", "user.name", NAME)
        self("config", "user.email", EMAIL)

    def head(self) -> str:
        return self("rev-parse", "HEAD").strip()

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        return {
            **kept,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            # If a folder is no repository, git must not use the project's own.
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
