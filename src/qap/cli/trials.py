"""The verbs that boot guests or drive devices: run, matrix, shell and repro."""

from pathlib import Path
from typing import Annotated

import typer

from qap.cli.options import (
    Base,
    BaseSeries,
    Confidential,
    DeviceName,
    GuestName,
    Json,
    Machine,
    Profile,
    ViommuName,
    writable,
)
from qap.host.errors import Exit


def run(
    names: Annotated[
        list[str] | None, typer.Argument(help="Scenarios of configs/scenarios.toml; all if none.")
    ] = None,
    profile: Profile = "lab",
    jobs: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    json: Json = None,
) -> None:
    """The main job: boot every scenario on base and fork, and compare."""
    from qap.cli import archive
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.scenario import run as running
    from qap.scenario.scenario import scenario, scenarios

    chosen = [scenario(name) for name in names] if names else list(scenarios().values())
    fork, base = Build(profile), Build(profile, is_base=True)
    archive.bring_for_guests()
    make(base)
    make(fork)
    report = running.run(chosen, fork, base, jobs)
    finish(report, json, [fork, base])


def matrix(
    select: Annotated[
        list[str] | None,
        typer.Option(help="Cells by name pattern, or axis=pattern,… ; may be given repeatedly."),
    ] = None,
    shard: Annotated[str | None, typer.Option(help="A part of the cells, i/n.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at a time.", min=1)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted.")
    ] = False,
    lab: Annotated[
        bool, typer.Option("--lab", help="Also the cells that need the kernel lab.")
    ] = False,
    profile: Profile = "lab",
    base: Base = False,
    base_series: BaseSeries = None,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page here.", callback=writable)
    ] = None,
) -> None:
    """What must happen beside what did, for every machine, transport, device and driver."""
    from qap.cli import archive
    from qap.cli.finish import finish, save
    from qap.fork.build import Build, make
    from qap.host.paths import Project
    from qap.matrix import cell
    from qap.matrix import run as running
    from qap.matrix.summary import write_page

    chosen = cell.selected(select or [])
    if shard:
        chosen = cell.shard(chosen, shard)
    build = Build(profile, base, Project.here(base_series))
    if lab:
        archive.bring_for_guests()
    make(build)
    done = running.matrix(chosen, build, jobs=jobs, resume=resume, lab=lab)
    save(done.report, json, [build])
    if html:
        write_page(html, build, done.results, done.seconds)
    finish(done.report, None)


def merge(
    files: Annotated[list[Path], typer.Argument(help="What ./qap matrix --json wrote.")],
    select: Annotated[
        list[str] | None, typer.Option(help="The cells that the parts had together, as matrix.")
    ] = None,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page here.", callback=writable)
    ] = None,
) -> None:
    """Join the results of the matrix's shards into one page and one verdict."""
    from qap.host.paths import Project
    from qap.matrix import cell
    from qap.matrix.merge import merge as merged
    from qap.matrix.summary import write_page

    done = merged(files, cell.selected(select or []), Project.here())
    if json:
        done.run.report.write(json, done.provenance)
    if html:
        write_page(html, done.build, done.run.results, done.run.seconds, done.record)
    raise typer.Exit(Exit.OK if done.run.ok else Exit.UNEXPECTED)


def shell(
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of QEMU, after --.", metavar="-- OPTION")
    ] = None,
    machine: Machine = None,
    device: DeviceName = None,
    viommu: ViommuName = "none",
    ports: Annotated[
        int | None,
        typer.Option(help="Free root ports, on a machine that needs them: 4.", min=1, max=24),
    ] = None,
    confidential: Confidential = None,
    guest: GuestName = None,
    share: Annotated[
        Path | None, typer.Option(help="What virtiofsd shares; a scratch folder if not given.")
    ] = None,
    profile: Profile = "lab",
    base: Base = False,
    base_series: BaseSeries = None,
) -> None:
    """A guest with its console on this terminal, and a device ready to be hot-plugged: virtiofs."""
    from qap.fork.build import Build, make
    from qap.host.paths import Project
    from qap.scenario.confidential_kind import ConfidentialKind
    from qap.scenario.shell import Shell, scenario_for

    build = Build(profile, base, Project.here(base_series))
    scenario = scenario_for(
        build,
        machine=machine,
        device=device,
        viommu=viommu,
        confidential=ConfidentialKind(confidential) if confidential else None,
        guest=guest,
    )
    chosen = Shell(build, scenario, share, ports, options or [])
    make(build)
    chosen.run()
