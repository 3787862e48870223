"""Checksums of downloads. apt checks them once; these find damage that comes later."""

import hashlib
import shutil
from pathlib import Path

from qap.host.errors import QapError

SUMS = "SHA256SUMS"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return {path.name: file_sha256(path) for path in files}


def write_sums(folder: Path) -> None:
    """Record the content of `folder`, for `check`."""
    lines = [f"{value}  {name}\n" for name, value in _sums(folder).items()]
    (folder / SUMS).write_text("".join(lines))


def check(download: Path) -> Path:
    """Check that a download has not changed since apt checked it; returns it.

    Raises:
        QapError: it has changed; it has been removed.
    """
    folder = download.parent
    sums = folder / SUMS
    lines = sums.read_text(errors="replace").splitlines() if sums.exists() else []
    wanted = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    actual = _sums(folder)
    bad = sorted(name for name in {**wanted, **actual} if wanted.get(name) != actual.get(name))
    if bad:
        shutil.rmtree(folder)
        raise QapError(
            f"the cached {bad[0]} is corrupted (its SHA-256 is not the one it had when apt "
            "checked it): removed, run this again to download it anew"
        )
    return download
