"""Where things are: the project's root, its generated trees, and the download cache."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
QEMU = ROOT / "qemu"
RESULTS = ROOT / "results"


def cache() -> Path:
    """The download cache, by the XDG base directory specification (XDG_CACHE_HOME)."""
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home else Path.home() / ".cache"
    return base / "qemu-access-platform"


def shown(path: Path) -> str:
    """A path as a person at the project's root would type it."""
    try:
        return str(path.relative_to(ROOT))
    except ValueError:
        return str(path)
