"""`qap soak hostile`: a sweep of hostile drivers over every target, in several QEMUs at a time."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host import workers
from qap.host.progress import bar
from qap.host.report import Report, bad, good
from qap.measure.hostile.episode import Episodes, NoDevice
from qap.measure.hostile.failure import Failure
from qap.measure.hostile.name import BATCH, EpisodeName
from qap.measure.hostile.shrink import Shrink
from qap.measure.hostile.walk import walk
from qap.measure.soak_cycle import trace_leaks

PATIENCE_S = 5.0
# A sanitizer makes QEMU slower.
SANITIZED = 6
SHOWN_REPROS = 3
DEFAULT_PROFILE = "lab"
News = tuple[Literal["done", "skipped", "failed", "shrunk"], Failure | str]
Tell = Callable[[News], None]


@dataclass(frozen=True)
class BatchJob:
    """Consecutive episodes of a seed that share a QEMU as long as it lasts."""

    build: Build
    seed: int
    numbers: range

    def carry_out(self, tell: Tell) -> None:
        """Carry them out."""
        trace_leaks(self.build)
        with Episodes(self.build, patience(self.build)) as episodes:
            for number in self.numbers:
                name = EpisodeName(self.seed, number)
                try:
                    failure = episodes.run(name)
                except NoDevice:
                    tell(("skipped", str(name)))
                    continue
                if failure:
                    tell(("failed", failure))
                tell(("done", str(name)))
            if failure := episodes.finish():
                tell(("failed", failure))


@dataclass(frozen=True)
class ShrinkJob:
    """A failure to be shrunk."""

    build: Build
    failure: Failure

    def carry_out(self, tell: Tell) -> None:
        """Shrink it."""
        trace_leaks(self.build)
        tell(("shrunk", Shrink(self.build, self.failure, patience(self.build) / 2).run()))


def patience(build: Build) -> float:
    """Seconds after which a QEMU that does not answer hangs."""
    return PATIENCE_S * (SANITIZED if build.is_sanitized else 1)


def sweep(build: Build, seed: int, episodes: int, jobs: int | None) -> Report:
    """Carry out the first episodes of a seed, and print the failures by signature.

    Args:
        jobs: QEMUs at a time; one for each processor if None.
    Raises:
        QapError: a process ended without having been told to.
    """
    start = time.monotonic()
    most = jobs or os.cpu_count() or 1
    failures: list[Failure] = []
    counts = {"done": 0, "skipped": 0}
    batches = [
        BatchJob(build, seed, range(first, min(first + BATCH, episodes)))
        for first in range(0, episodes, BATCH)
    ]
    with bar(f"hostile drivers on the {build.name}") as progress:

        def heard(job: int, news: News) -> None:
            kind, what = news
            if isinstance(what, Failure):
                failures.append(what)
                return
            counts[kind] += 1
            found = f"{len(failures)} failed" if failures else ""
            progress(counts["done"] + counts["skipped"], episodes, found)

        progress(0, episodes, "")
        try:
            workers.carry_out(_work, batches, most, heard)
        except KeyboardInterrupt:
            _print(build, seed, counts, _by_signature(failures), time.monotonic() - start)
            raise
    groups = _shrunk(build, failures, most)
    seconds = time.monotonic() - start
    rows = [_grouped(group, build) for group in groups.values()]
    _print(build, seed, counts, groups, seconds)
    return Report("soak", not failures, seconds, rows)


def _work(job: BatchJob | ShrinkJob, tell: Tell) -> None:
    job.carry_out(tell)


def _shrunk(build: Build, failures: Sequence[Failure], processes: int) -> dict[str, list[Failure]]:
    """As `_by_signature`; the first of each is shrunk."""
    groups = _by_signature(failures)
    work = [ShrinkJob(build, group[0]) for group in groups.values()]
    if work:
        with bar("the fewest steps that do the same") as progress:
            done = 0

            def heard(job: int, news: News) -> None:
                nonlocal done
                failure = news[1]
                assert isinstance(failure, Failure)
                groups[failure.signature][0] = failure
                done += 1
                progress(done, len(work), "")

            progress(0, len(work), "")
            workers.carry_out(_work, work, processes, heard)
    return groups


def _by_signature(failures: Sequence[Failure]) -> dict[str, list[Failure]]:
    """Failures by signature, the most frequent first; the first of each is the best example."""
    groups: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[failure.signature].append(failure)
    for group in groups.values():
        # One that needs no other episode before it is better.
        group.sort(key=lambda failure: ("," in failure.episode, _length(failure)))
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _length(failure: Failure) -> int:
    return len(walk(EpisodeName.parse(failure.episode)[-1]).steps)


def row(failure: Failure, build: Build) -> dict[str, Any]:
    """A failure as docs/json.md has it."""
    fields = asdict(failure)
    del fields["output"]
    return {**fields, "repro": repro(failure, build)}


def _grouped(group: Sequence[Failure], build: Build) -> dict[str, Any]:
    return {
        **row(group[0], build),
        "count": len(group),
        "targets": sorted({failure.target for failure in group}),
        "episodes": [failure.episode for failure in group],
    }


def _print(
    build: Build,
    seed: int,
    counts: Mapping[str, int],
    groups: Mapping[str, Sequence[Failure]],
    seconds: float,
) -> None:
    console = Console()
    skipped = f", {counts['skipped']} skipped: no such device" if counts["skipped"] else ""
    total = sum(len(group) for group in groups.values())
    verdict = bad(f"{total} failed") if total else good("none failed")
    console.print(
        f"{counts['done']} episodes of seed {seed} on the {build.name}, "
        f"{verdict}{skipped} ({seconds:.0f} s)"
    )
    for signature, group in groups.items():
        targets = sorted({failure.target for failure in group})
        console.print(f"\n{bad(str(len(group)))} [bold]{escape(signature)}[/]")
        more = f" and {len(targets) - SHOWN_REPROS} more" if len(targets) > SHOWN_REPROS else ""
        console.print(f"  on {escape('; '.join(targets[:SHOWN_REPROS]))}{more}", highlight=False)
        tell(group[0], build, console)


def tell(failure: Failure, build: Build, console: Console) -> None:
    """Print one failure: how to repeat it, what was done last, what QEMU said."""
    lines = [f"  {line}" for line in failure.trace]
    lines += [f"  > {line}" for line in failure.said.splitlines()]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    console.print(f"  {repro(failure, build)}", markup=False, highlight=False, soft_wrap=True)


def repro(failure: Failure, build: Build) -> str:
    """The command that repeats a failure."""
    profile = "" if build.profile == DEFAULT_PROFILE else f" --profile {build.profile}"
    return f"./qap soak hostile {failure.options}{profile}{' --base' if build.is_base else ''}"
