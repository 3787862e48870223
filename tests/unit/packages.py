"""Packages of a few files in the cache, as if they had been fetched."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from qap.host.debian.sums import write_sums
from qap.host.paths import cache


def cached(
    name: str, version: str, files: Mapping[str, bytes] | None = None, needs: str = ""
) -> Path:
    """Put a package of trixie for amd64 into the cache; returns the .deb.

    Args:
        files: what is in it, by path.
        needs: its Depends.
    """
    folder = cache() / "apt/trixie/amd64/files" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        control += "Maintainer: Nobody <nobody@test>\nDescription: nothing\n"
        control += f"Depends: {needs}\n" if needs else ""
        for path, content in {"DEBIAN/control": control.encode(), **(files or {})}.items():
            file = Path(scratch) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755)
        Path(scratch).chmod(0o755)
        argv = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", scratch, str(folder)]
        subprocess.run(argv, check=True, capture_output=True)
    write_sums(folder)
    (deb,) = folder.glob("*.deb")
    return deb
