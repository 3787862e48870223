"""The series up to a patch, in a separate tree."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.fork import base
from qap.fork.build import Build
from qap.fork.git import Git
from qap.host.lock import locked
from qap.host.paths import Project
from qap.host.progress import Progress, quiet


@dataclass(frozen=True)
class Prefix(Build):
    """A build of the series up to a patch, in `scratch_tree`: its emulators only."""

    @property
    def name(self) -> str:
        return "prefix"

    @property
    def tree(self) -> Path:
        return _scratch(self.project) / "tree"

    def tools(self) -> dict[str, str]:
        """The emulators."""
        return {name: path for name, path in super().tools().items() if name.startswith("qemu-sys")}

    def make(self, progress: Progress = quiet, extra: Sequence[str] = ()) -> None:
        """Build what the scratch tree holds; raises as Build.make does."""
        self._configure(progress)
        self._link_firmware()
        self._ninja(progress, extra)


def _scratch(project: Project) -> Path:
    return project.trees / "each"


@contextmanager
def scratch_tree(project: Project) -> Iterator[Git]:
    """A clone of the base tree that shares its objects, without files yet.

    It is removed at the end, with its builds.
    """
    scratch = _scratch(project)
    tree = scratch / "tree"
    with locked(scratch):
        # An earlier run may have been killed.
        shutil.rmtree(tree, ignore_errors=True)
        with locked(project.qemu):
            base.ensure(project)
        try:
            stock = project.base_tree
            Git(stock)("clone", "-q", "--shared", "--no-checkout", str(stock), str(tree))
            yield Git(tree)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
