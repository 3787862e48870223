"""Paths: the checkout, the data files of the package, and the download cache."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from qap.host.errors import UsageError, unknown_name

PACKAGE = Path(__file__).resolve().parents[1]
# The base that patches are written for: qemu/patches apply to it as they are.
FIRST_SERIES = "10.0"
BASE_SERIES = "QAP_BASE_SERIES"


@dataclass(frozen=True)
class Project:
    """A checkout: the patch queue, the trees made from it, and results.

    Args:
        root: the folder that has configs/ and qemu/.
        base_series: the base of the trees, a name in qemu/bases/.
    """

    root: Path
    base_series: str = FIRST_SERIES

    @classmethod
    def here(cls, base_series: str | None = None) -> Self:
        """The checkout that this package is part of.

        Args:
            base_series: the base; None for QAP_BASE_SERIES, or 10.0 if that is not set.
        Raises:
            UsageError: the package is installed outside of a checkout, or there is no such base.
        """
        root = PACKAGE.parents[1]
        if not (root / "qemu" / "series").exists():
            raise UsageError("this needs the patch queue: run ./qap in a checkout of the project")
        name = base_series or os.environ.get(BASE_SERIES) or FIRST_SERIES
        return cls(root).on(name)

    def on(self, base_series: str) -> Self:
        """The same checkout with the trees and results of another base.

        Raises:
            UsageError: there is no such base.
        """
        known = self.all_series()
        if base_series not in known:
            raise unknown_name("base", base_series, known)
        return replace(self, base_series=base_series)

    def all_series(self) -> list[str]:
        """The bases of qemu/bases/, the first one first."""
        names = [path.stem for path in (self.qemu / "bases").glob("*.toml")]
        return sorted(names, key=lambda name: (name != FIRST_SERIES, name))

    @property
    def is_first(self) -> bool:
        return self.base_series == FIRST_SERIES

    @property
    def option(self) -> str:
        """What a command line of qap needs to mean this base, with a space before it."""
        return "" if self.is_first else f" --base-series {self.base_series}"

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def qemu(self) -> Path:
        return self.root / "qemu"

    @property
    def trees(self) -> Path:
        """The folder of what is made from the base: qemu/, or qemu/SERIES of a further base."""
        return self.qemu if self.is_first else self.qemu / self.base_series

    @property
    def base_toml(self) -> Path:
        return self.qemu / "bases" / f"{self.base_series}.toml"

    @property
    def base_tree(self) -> Path:
        """The upstream source, unpatched."""
        return self.trees / "base"

    @property
    def tree(self) -> Path:
        """The upstream source with a commit for each patch."""
        return self.trees / "tree"

    @property
    def series(self) -> Path:
        return self.qemu / "series"

    @property
    def patches(self) -> Path:
        return self.qemu / "patches"

    @property
    def variants(self) -> Path:
        """The patches that differ on this base; the first base has none."""
        return self.qemu / "variants" / self.base_series

    @property
    def results(self) -> Path:
        """The folder results/, or results/SERIES of a further base."""
        results = self.root / "results"
        return results if self.is_first else results / self.base_series


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
