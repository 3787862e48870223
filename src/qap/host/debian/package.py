"""Programs and data from .deb files, unpacked into the cache and not installed."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from qap.host.debian.bundle import Bundle
from qap.host.debian.sums import check
from qap.host.errors import MissingError, failure
from qap.host.lock import locked
from qap.host.paths import cache


def unpacked(
    bundle: Bundle,
    members: Mapping[str, Sequence[str]] = MappingProxyType({}),
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """A folder with the content of a bundle's packages, made once and kept in the cache.

    Args:
        members: by package, without architecture, the only files to unpack of it.
        finish: called once with the folder, to do the work of the packages' own scripts.
    Raises:
        MissingError: no suite of the bundle has it, or none can be reached.
        QapError: a download is corrupted; it has been removed.
    """
    debs = bundle.files()
    home = cache() / "unpacked"
    names = "\n".join(sorted(f"{deb.name} {deb.stat().st_mtime_ns}" for deb in debs))
    target = home / f"{debs[0].stem}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    with locked(home):
        if not target.exists():
            for deb in debs:
                check(deb)
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                root = Path(scratch) / "root"
                root.mkdir()
                for deb in debs:
                    unpack(deb, root, members.get(deb.name.partition("_")[0], ()))
                if finish is not None:
                    finish(root)
                root.rename(target)
    return target


def unpack(deb: Path, root: Path, members: Sequence[str] = ()) -> None:
    """Unpack a package into a folder.

    Args:
        members: the only files to unpack.
    Raises:
        MissingError: dpkg-deb is missing.
        QapError: the package can't be unpacked.
    """
    if shutil.which("dpkg-deb") is None:
        raise MissingError("dpkg-deb is missing: install dpkg")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as tar:
        argv = ["tar", "-x", "--no-same-owner", "-C", str(root), *members]
        env = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(
            argv, stdin=tar.stdout, env=env, capture_output=True, text=True, check=False
        )
        assert tar.stdout is not None
        tar.stdout.close()
    if done.returncode or tar.returncode:
        raise failure(f"could not unpack {deb.name}", done.stderr)


def merge_usr(root: Path) -> None:
    """Make the links of base-files; all other packages have files below usr/ only."""
    for name in ("lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
