"""Paths: the checkout, the data files of the package, and the download cache."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qap.host.errors import UsageError

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Project:
    """A checkout: the patch queue, the trees made from it, and results.

    Args:
        root: the folder that has configs/ and qemu/.
    """

    root: Path

    @classmethod
    def here(cls) -> Self:
        """The checkout that this package is part of.

        Raises:
            UsageError: the package is installed outside of a checkout.
        """
        root = PACKAGE.parents[1]
        if not (root / "qemu" / "series").exists():
            raise UsageError("this needs the patch queue: run ./qap in a checkout of the project")
        return cls(root)

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def qemu(self) -> Path:
        return self.root / "qemu"

    @property
    def base_tree(self) -> Path:
        """The upstream source, unpatched."""
        return self.qemu / "base"

    @property
    def tree(self) -> Path:
        """The upstream source with a commit for each patch."""
        return self.qemu / "tree"

    @property
    def series(self) -> Path:
        return self.qemu / "series"

    @property
    def patches(self) -> Path:
        return self.qemu / "patches"

    @property
    def results(self) -> Path:
        return self.root / "results"


def data() -> Path:
    """The folder configs/, which has the catalogue and the files that guests boot.

    In a checkout it is the project's; an installed package has its own.
    """
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "configs"


def cache() -> Path:
    """The download cache, by the XDG base directory specification (XDG_CACHE_HOME)."""
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home else Path.home() / ".cache"
    return base / "qemu-access-platform"


def shown(path: Path) -> str:
    """A path for messages: relative to the working directory if it is below that."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
