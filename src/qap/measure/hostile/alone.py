"""`qap soak hostile --episode`: one episode, with all that its driver does."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.report import Report, bad, good
from qap.measure.hostile.episode import Episodes
from qap.measure.hostile.name import EpisodeName
from qap.measure.hostile.sweep import patience, row, tell
from qap.measure.hostile.walk import walk
from qap.measure.soak_cycle import trace_leaks


def alone(build: Build, names: Sequence[EpisodeName], steps: tuple[int, ...]) -> Report:
    """Carry out episodes in one QEMU, and print the walk of the last one.

    Args:
        steps: the numbers of the only steps of the last one; all if empty.
    Raises:
        UsageError: it has no such step.
        NoDevice: the build has no such device.
    """
    count = len(walk(names[-1]).steps)
    if any(number >= count for number in steps):
        raise UsageError(f"the episode {names[-1]} has the steps 0 to {count - 1}")
    start = time.monotonic()
    console = Console()
    trace_leaks(build)
    failure = None
    with Episodes(build, patience(build)) as episodes:
        for name in names:
            console.print(f"episode {name}: {walk(name).target}", markup=False, highlight=False)
            failure = episodes.run(name, steps if name == names[-1] else ())
            if failure:
                break
        trace = episodes.trace
        failure = failure or episodes.finish()
        console.print("\n".join(trace), markup=False, highlight=False, soft_wrap=True)
    seconds = time.monotonic() - start
    rows: list[dict[str, Any]] = []
    if failure:
        console.print(f"{bad('failed')}: {failure.signature}", highlight=False, soft_wrap=True)
        tell(failure, build, console)
        rows = [row(failure, build)]
    else:
        console.print(good("QEMU lives, has written where it may, and serves again"))
    return Report("soak", failure is None, seconds, rows)
