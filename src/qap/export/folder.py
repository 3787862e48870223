"""All of an export, in a folder."""

import shutil
import tempfile
from pathlib import Path

from qap.export import b4, compat, debian, manifest, mbox, queue, quilt, rpm, sbom, sums
from qap.export.covers import covers
from qap.export.sign_off import Person
from qap.host.errors import UsageError
from qap.host.paths import Project, shown

PLAIN, PROGRAM = 0o644, 0o755


def export(project: Project, folder: Path, sender: Person | None) -> queue.Queue:
    """Write the queue in every format; the same queue and base give the same bytes.

    Args:
        folder: is made, or is empty; only a whole export gets there.
        sender: who signs the patches off; None for nobody.
    Raises:
        UsageError: the folder has something in it, or can't be made.
        QapError: a patch does not apply, or a cover letter is missing.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{shown(folder)} has something in it: name a new or empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".qap-export-")
    except OSError as exc:
        raise UsageError(f"{shown(folder)}: {exc.strerror}") from exc
    with scratch as path, queue.opened(project, sender) as opened:
        made = Path(path) / "export"
        made.mkdir()
        _write(opened, made)
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return opened


def _write(opened: queue.Queue, folder: Path) -> None:
    letters = covers(opened.project, list(opened.topics))
    quilt.write(opened, folder / "quilt")
    mbox.write(opened, letters, folder / "mbox")
    mbox.bundle(opened, folder / "queue.bundle")
    if opened.base.package_version:
        debian.write(opened, letters, folder / "debian")
    rpm.write(opened, letters, folder / "quilt", folder / "rpm")
    b4.write(opened, letters, folder / "b4")
    compat.write(opened.project, folder / "compat")
    manifest.write(opened, letters, folder)
    sbom.write(opened, folder / "sbom.json")
    sums.write(folder)
    for file in folder.rglob("*"):
        executable = file.is_dir() or file.stat().st_mode & 0o100
        file.chmod(PROGRAM if executable else PLAIN)
