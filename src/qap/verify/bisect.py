"""`qap prove --each`: the series up to each patch builds, and boots a guest of each kind."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.markup import escape

from qap.fork import series
from qap.fork.build import Build, make
from qap.fork.patch import Patch
from qap.fork.prefix import Prefix, scratch_tree
from qap.host.errors import QapError
from qap.host.paths import Project
from qap.host.report import Report, bad, good, table
from qap.scenario import run
from qap.scenario.scenario import Scenario
from qap.scenario.trial import Trial

# The guest's device: it needs no back-end, and has iommu_platform=on.
DEVICE = "virtio-rng"
Boots = Callable[[Build, str], str]


@dataclass(frozen=True)
class PrefixResult:
    """The result for the series up to a patch.

    Attributes:
        error: why it does not build; "" if it does.
        boots: by guest, what is wrong with its boot; "" if nothing is.
        seconds: how long build and boots took.
    """

    patch: str
    error: str
    boots: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.error and not any(self.boots.values())


def boot(build: Build, guest: str) -> str:
    """Boot a guest with a device on a build; returns what is wrong, "" if nothing is."""
    scenario = Scenario(guest=guest, device=DEVICE)
    return "; ".join(run.problems(scenario, Trial(scenario, build).run(), guest))


def each(project: Project, patches: Sequence[Patch], profile: str, boots: Boots = boot) -> Report:
    """Build and boot the series up to each of these patches, in the queue's order.

    If one does not build or boot, the next ones are tried all the same.

    Args:
        boots: boots a guest on a build, and returns what is wrong, like `boot`.
    Raises:
        QapError: a patch does not apply.
    """
    start = time.monotonic()
    console = Console(stderr=True)
    order = [patch.name for patch in series.patches(project)]
    wanted = sorted(order.index(patch.name) for patch in patches)
    steps = []
    with scratch_tree(project) as git:
        for number, index in enumerate(wanted, 1):
            console.rule(f"{number}/{len(wanted)}: {order[index]}")
            # Checkout changes only files that differ from the last step: little is rebuilt.
            git("checkout", "-q", "--detach", series.commits(project, git, index + 1))
            steps.append(_step(order[index], Prefix(profile, project=project), boots))
    seconds = time.monotonic() - start
    _print(steps, seconds)
    ok = all(step.ok for step in steps)
    return Report("prove", ok, seconds, [{**asdict(step), "ok": step.ok} for step in steps])


def _step(patch: str, build: Build, boots: Boots) -> PrefixResult:
    start = time.monotonic()
    try:
        make(build)
    except QapError as exc:
        error = "\n".join(part for part in (str(exc), exc.detail) if part)
        return PrefixResult(patch, error, seconds=time.monotonic() - start)
    guests = [name.removeprefix("qemu-system-") for name in build.tools()]
    seen = {guest: boots(build, guest) for guest in guests}
    return PrefixResult(patch, "", seen, time.monotonic() - start)


def _print(steps: Sequence[PrefixResult], seconds: float) -> None:
    guests = list(dict.fromkeys(guest for step in steps for guest in step.boots))
    rows = []
    for step in steps:
        builds = bad("no") if step.error else good("yes")
        booted = [_booted(step, guest) for guest in guests]
        rows.append(
            [escape(step.patch.partition("-")[0]), builds, *booted, f"{step.seconds:.0f} s"]
        )
    columns = ["series up to", "builds", *(f"boots {guest}" for guest in guests), "time"]
    table(f"each patch on those before it ({seconds:.0f} s)", columns, rows)
    for step in steps:
        for problem in filter(None, [step.error, *step.boots.values()]):
            Console().print(bad(f"{step.patch}: {problem}"))


def _booted(step: PrefixResult, guest: str) -> str:
    if guest not in step.boots:
        return ""
    return bad("no") if step.boots[guest] else good("yes")
