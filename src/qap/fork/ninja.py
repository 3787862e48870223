"""ninja: its progress, and the first error of a build that fails."""

import re
import shutil
from collections.abc import Mapping, Sequence

from qap.host.errors import MissingError
from qap.host.process import reading
from qap.host.progress import Progress

STATUS = re.compile(r"^@(\d+)/(\d+)@ ?(.*)")
ERROR = re.compile(r"\berror: |undefined reference|multiple definition|ERROR")


def ninja(argv: Sequence[str], env: Mapping[str, str], progress: Progress) -> str | None:
    """Run ninja.

    Args:
        argv: its arguments.
        progress: called at each step of the build.
    Returns:
        the command that failed and its first error; None if all is built.
    Raises:
        MissingError: it is not installed.
    """
    failed: list[str] = []
    if shutil.which("ninja") is None:
        raise MissingError("ninja is missing: install ninja-build")
    with reading(["ninja", *argv], env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := STATUS.match(line):
                progress(int(match[1]), int(match[2]), match[3])
            elif failed or line.startswith(("FAILED:", "ninja: error:")):
                failed.append(line.rstrip("\n"))
        status = process.wait()
    return first_error(failed) if status else None


def first_error(failed: list[str]) -> str:
    """The failing command and its first error, from ninja's lines after FAILED:."""
    if not failed:
        return ""
    command = f"command: {failed[1]}" if len(failed) > 1 else ""
    error = next((line for line in failed[2:] if ERROR.search(line)), "")
    return "\n".join(line for line in (failed[0], command, error) if line)
