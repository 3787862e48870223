"""Folders of the cache that take long to make, so each is made once."""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qap.host.lock import locked
from qap.host.progress import Progress, bar


def made_once(target: Path, title: str, make: Callable[[Path, Progress], Path]) -> Path:
    """`target`, made unless it is there; one process makes it, others wait for that.

    Args:
        title: for the progress.
        make: called with a scratch folder; returns the folder below it that is kept.
    """
    if target.exists():
        return target
    home = target.parent
    with bar(title) as progress:
        busy = partial(progress, 0, 0, "waits for another build to end")
        with locked(home, busy):
            for left in home.glob("tmp*"):
                shutil.rmtree(left)
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=home) as scratch:
                    make(Path(scratch), progress).rename(target)
    return target
