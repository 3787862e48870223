"""`qap repro`: one scenario on one build, in one screen."""

import time
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qap.fork import base
from qap.fork.build import Build
from qap.host.report import Report, bad, good
from qap.machine.asked import asked
from qap.machine.recording import Recording
from qap.oracle.features import names
from qap.scenario.events import expected_loss
from qap.scenario.observation import Observation
from qap.scenario.run import problems
from qap.scenario.scenario import Scenario
from qap.scenario.trial import Trial


def scenario(*, machine: str, device: str, guest: str | None, **options: object) -> Scenario:
    """The scenario that the command line describes.

    Args:
        machine, device: as `qap.machine.asked.asked` takes them.
        guest: a guest of configs/guests.toml; the machine's own if None.
        options: further fields of Scenario.
    Raises:
        UsageError: a name is not known, gives the nearest; or it can't be done.
    """
    place, kind = asked(machine, device)
    chosen = {"guest": guest or place.guest, "machine": place.name, "device": kind.name}
    return Scenario.model_validate({**chosen, **options})


def repro(scenario: Scenario, build: Build, recording: Recording | None = None) -> Report:
    """Carry out a scenario and print what was asked, what happened, why, and how to repeat it.

    Args:
        recording: gathers what is said.
    """
    start = time.monotonic()
    seen = Trial(scenario, build, recording).run()
    wrong = problems(scenario, seen, build.name)
    _print(scenario, build, seen, wrong)
    result = {
        "level": "guest",
        "build": build.name,
        "scenario": scenario.model_dump(exclude={"name"}),
        "expected": asdict(scenario.expected(is_base=build.is_base)),
        "seen": asdict(seen),
        "problems": wrong,
    }
    return Report("repro", not wrong, time.monotonic() - start, [result])


def _print(scenario: Scenario, build: Build, seen: Observation, wrong: list[str]) -> None:
    console = Console()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    stock = base.require(build.project)
    asked = f"{scenario.title}, iommu_platform=on" if scenario.iommu_platform else scenario.title
    grid.add_row("asked", escape(asked))
    grid.add_row("shown by", f"a guest, {scenario.guest}")
    grid.add_row("build", escape(f"{build.name} of {stock.title}, profile {build.profile}"))
    outcome = str(seen.outcome or "went wrong")
    shown = bad(outcome) if wrong else good(outcome)
    grid.add_row("happened", f"{shown} [dim]in {seen.seconds:.1f} s[/]")
    if seen.error:
        grid.add_row("QEMU said", escape(seen.error))
    for number, line in enumerate(seen.said):
        grid.add_row("guest said" if number == 0 else "", escape(line))
    if seen.migration_error:
        grid.add_row("not migrated", escape(seen.migration_error))
    if seen.features:
        grid.add_row("negotiated", escape(", ".join(names(seen.features))))
    expected = scenario.expected(is_base=build.is_base)
    grid.add_row("fence table", escape(f"{expected.why} → {expected.outcome}"))
    if loss := expected_loss(scenario.kind, scenario):
        grid.add_row("back-end gone", escape(loss.why))
    if remedy := scenario.remedy(expected):
        grid.add_row("remedy", escape(remedy))
    sequel = scenario.kill_backend or scenario.migrate
    well = "as the fence table says" + (", and as it must go on" if sequel else "")
    verdict = "; ".join(wrong) if wrong else well
    grid.add_row("verdict", bad(verdict) if wrong else good(verdict))
    console.print(grid)
    console.rule("by hand", align="left")
    for line in seen.commands:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
