"""A whole project around a QEMU of a few lines, for tests of the patch queue."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from qap.fork import base
from qap.fork.git import EMAIL, NAME, Git
from qap.host import paths

BASE_TOML = """\
package = "qemu"
suites = ["trixie"]
series = "10.0"
tested = ["1:10.0.13+ds-0+deb13u1"]
leave_out = ["roms"]
"""
PROFILE_TOML = """\
purpose = "to test qap"
targets = ["x86_64-softmmu"]
tools = ["qemu-img"]
firmwarepath = ["/usr/share/qemu"]
configure = ["--enable-tcg"]
"""


def numbered(name: str) -> str:
    """Forty lines, each of them unique among all files."""
    return "".join(f"{name} line {number}\n" for number in range(1, 41))


SOURCE = {
    "VERSION": "10.0.99\n",
    "configure": "#!/bin/sh\n",
    "hw/bus.c": numbered("bus"),
    "hw/pci.c": numbered("pci"),
    "hw/ccw.c": numbered("ccw"),
    "roms/blob.c": "no emulator reads this\n",
}


@dataclass(frozen=True)
class Project(paths.Project):
    """A project for a test; `source` below its root is the upstream for base.ensure()."""

    @classmethod
    def make(cls, root: Path) -> Self:
        made = cls(root)
        made.patches.mkdir(parents=True)
        made.series.touch()
        write(made.qemu / "bases" / "10.0.toml", BASE_TOML)
        (made.configs / "profiles").mkdir(parents=True)
        made.profile("small", PROFILE_TOML)
        for name, text in SOURCE.items():
            write(made.source / name, text)
        (made.source / "configure").chmod(0o755)
        return made

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make qap work on this project until the test ends."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.root / "cache"))
        monkeypatch.setattr(paths.Project, "here", lambda name=None: self.on(name or "10.0"))
        monkeypatch.chdir(self.root)

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def git(self) -> Git:
        return Git(self.tree)

    def profile(self, name: str, text: str) -> None:
        (self.configs / "profiles" / f"{name}.toml").write_text(text)

    def bring(self) -> base.BaseInfo:
        """Make qemu/base from `source`."""
        return base.ensure(self, str(self.source))

    def add_patch(self, name: str, subject: str, *edits: tuple[str, str, str]) -> None:
        """Add a patch to the end of the queue, as git format-patch writes it.

        Args:
            edits: file, the text to replace in it ("" for a new file), and the new text.
        """
        git = Git(self.root / "author")
        if not git.root.exists():
            shutil.copytree(self.source, git.root)
            git.init()
            git("add", "-A")
            git("commit", "-q", "-m", "upstream")
        commit(git, subject, *edits)
        text = git(
            "format-patch", "-1", "--stdout", "--zero-commit", "--no-signature", "--full-index"
        )
        write(self.patches / name, text)
        with self.series.open("a") as out:
            out.write(f"{name}\n")

    def queue(self) -> dict[str, bytes]:
        """Every file of the queue with its content."""
        files = [self.series, *(self.qemu / "patches").glob("*/*.patch")]
        return {str(path.relative_to(self.qemu)): path.read_bytes() for path in files}

    def log(self) -> list[str]:
        """The subjects of the commits in qemu/tree, oldest first, without the base's."""
        subjects = self.git("log", "--reverse", "--format=%s").splitlines()
        return subjects[1:]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def edit(root: Path, file: str, old: str, new: str) -> None:
    path = root / file
    if not old:
        write(path, new)
        return
    text = path.read_text()
    assert text.count(old) == 1, (file, old)
    path.write_text(text.replace(old, new))


def commit(git: Git, subject: str, *edits: tuple[str, str, str]) -> str:
    """Edit files and commit them; returns the commit."""
    for file, old, new in edits:
        edit(git.root, file, old, new)
        git("add", file)
    git(
        "commit",
        "-q",
        "-m",
        f"{subject}\n\nBecause.\n\nForwarded: no\nTest: tests/none.py"
        f"\nSigned-off-by: {NAME} <{EMAIL}>",
    )
    return git.head()
