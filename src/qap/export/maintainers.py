"""Whom QEMU's own script names for a patch."""

import os
import subprocess
from pathlib import Path

from qap.host.errors import MissingError, QapError

SCRIPT = "scripts/get_maintainer.pl"
# MAINTAINERS alone: the base has no history.
OPTIONS = ("--nogit", "--nogit-fallback", "--norolestats")


def maintainers(tree: Path, patch: Path) -> list[str]:
    """Names and addresses that scripts/get_maintainer.pl prints for a patch.

    They are sorted: the script's own order is another one each time.

    Args:
        tree: the unpacked source; without the script, nobody is named.
    Raises:
        MissingError: perl is missing.
        QapError: the script fails; `detail` has its words.
    """
    if not (tree / SCRIPT).exists():
        return []
    # The script reads settings from the user's home, too.
    env = {**os.environ, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    argv = ["perl", SCRIPT, *OPTIONS, str(patch)]
    try:
        done = subprocess.run(
            argv, cwd=tree, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError as exc:
        raise MissingError("perl is missing: install perl") from exc
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise QapError(f"{SCRIPT} fails for {patch.name}", said)
    return sorted(line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines())
