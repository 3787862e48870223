"""The upstream source: fetched, checked and unpacked as qemu/base, a git repo of one commit."""

import json
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qap.fork import config
from qap.fork.git import Git
from qap.host.debian.bundle import Bundle
from qap.host.debian.place import Place
from qap.host.debian.sums import check
from qap.host.errors import MissingError, QapError, UsageError
from qap.host.paths import Project

DEBIAN = "debian"
EPOCH = "2025-01-01T00:00:00Z"


@dataclass(frozen=True)
class BaseInfo:
    """Which upstream is unpacked in the base tree.

    Attributes:
        source: where it came from: a Debian suite, or the --source that was given.
        package_version: Debian's version of it, "" for a --source.
        version: QEMU's own, the content of its VERSION file.
        commit: the one commit of the base tree.
        left_out: folders of the source that were removed (leave_out in qemu/bases/).
    """

    source: str
    package_version: str
    version: str
    commit: str
    left_out: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"QEMU {self.version} ({self.package_version or self.source})"


def _record(project: Project) -> Path:
    return project.base_tree / ".git" / "qap-base.json"


def info(project: Project) -> BaseInfo | None:
    """What the base tree holds; None if there is nothing yet."""
    if not _record(project).exists():
        return None
    return BaseInfo(**json.loads(_record(project).read_text()))


def ensure(project: Project, source: str | None = None) -> BaseInfo:
    """Fetch and unpack the base unless it is there already, as qemu/bases/ says.

    Args:
        source: a folder or tarball to use instead of Debian's package; "debian" goes back to
            that; None keeps what is there.
    Raises:
        MissingError: it can't be fetched.
        UsageError: `source` is not a QEMU tree.
    """
    present = info(project)
    if present is not None:
        packaged = bool(present.package_version)
        stale = packaged and present.left_out != list(config.base(project).leave_out)
        if not stale and (source is None or (source == DEBIAN and packaged)):
            return present
    if source is None or source == DEBIAN:
        return _from_debian(project)
    return _from_path(project, Path(source).resolve())


def bundle(project: Project) -> Bundle:
    """The source package that the base's file in qemu/bases/ names."""
    wanted = config.base(project)
    places = tuple(Place(suite=suite, version=wanted.version) for suite in wanted.suites)
    name = "qemu:source" if project.is_first else f"qemu-{wanted.series}:source"
    return Bundle(name, (f"{wanted.package}:source",), places)


def _from_debian(project: Project) -> BaseInfo:
    wanted = config.base(project)
    taken = bundle(project).take()
    (dsc,) = map(check, taken.files)
    version = next(
        line.split(": ", 1)[1]
        for line in dsc.read_text().splitlines()
        if line.startswith("Version: ")
    )
    upstream = version.split(":")[-1]
    if not upstream.startswith(f"{wanted.series}."):
        raise QapError(
            f"Debian {taken.place} now has {wanted.package} {version}, and the patches are for "
            f"{wanted.series}: bring such a tree with --source DIR|TARBALL"
        )
    with _scratch(project) as scratch:
        unpacked = Path(scratch) / "qemu"
        argv = ["dpkg-source", "--no-copy", "--require-strong-checksums", "-x"]
        done = subprocess.run(
            [*argv, str(dsc), str(unpacked)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise QapError(f"dpkg-source could not unpack {dsc.name}", done.stderr.strip())
        return _adopt(project, unpacked, f"Debian {taken.place}", version)


def _scratch(project: Project) -> tempfile.TemporaryDirectory[str]:
    project.trees.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=project.trees, prefix=".unpack-")


def _from_path(project: Project, path: Path) -> BaseInfo:
    if not path.exists():
        raise UsageError(f"--source {path}: there is no such file or folder")
    with _scratch(project) as scratch:
        copied = Path(scratch) / "qemu"
        if path.is_dir():
            shutil.copytree(path, copied, symlinks=True, ignore=_builds_of(path))
        else:
            try:
                with tarfile.open(path) as tar:
                    # extractall() has no `filter` before Python 3.11.4, as in Debian 12.
                    tar.extraction_filter = getattr(tarfile, "tar_filter", None)
                    tar.extractall(scratch)
            except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as exc:
                raise UsageError(f"--source {path}: not a tarball ({exc})") from exc
            copied = next((entry for entry in Path(scratch).iterdir() if entry.is_dir()), copied)
        return _adopt(project, copied, str(path), "")


def _builds_of(source: Path) -> Callable[[str, list[str]], list[str]]:
    """For copytree: leave out .git and the builds at the top of `source`, nowhere else."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        if Path(folder) != source:
            return []
        return [name for name in names if name in (".git", "build") or name.startswith("build-")]

    return ignored


def _adopt(project: Project, unpacked: Path, source: str, package_version: str) -> BaseInfo:
    """Make the unpacked source the base tree, keeping the builds that are there."""
    if not (unpacked / "VERSION").exists() or not (unpacked / "configure").exists():
        raise UsageError(f"{source} is not a QEMU source tree (no VERSION or no configure)")
    left_out = list(config.base(project).leave_out)
    for name in left_out:
        shutil.rmtree(unpacked / name, ignore_errors=True)
    git = Git(unpacked)
    shutil.rmtree(unpacked / ".git", ignore_errors=True)
    git.init()
    git("add", "-A", "-f", ".")
    version = (unpacked / "VERSION").read_text().strip()
    dates = {"GIT_AUTHOR_DATE": EPOCH, "GIT_COMMITTER_DATE": EPOCH}
    git("commit", "-q", "-m", f"QEMU {version} {package_version}".strip(), env=dates)
    adopted = BaseInfo(source, package_version, version, git.head(), left_out)
    builds = project.base_tree / "build"
    if builds.exists():
        builds.rename(unpacked / "build")
    if project.base_tree.exists():
        project.base_tree.rename(unpacked.parent / "old")
    unpacked.rename(project.base_tree)
    _record(project).write_text(json.dumps(asdict(adopted), indent=2) + "\n")
    return adopted


def require(project: Project) -> BaseInfo:
    """What the base tree holds.

    Raises:
        MissingError: nothing yet.
    """
    present = info(project)
    if present is None:
        name = project.base_tree.relative_to(project.root)
        raise MissingError(f"there is no {name} yet: run ./qap tree{project.option}")
    return present
