"""The verbs of ./qap. Each imports what it needs when it runs, so that it starts at once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from qap.cli.measure import bench, soak
from qap.cli.options import Base, Json, Profile, writable
from qap.host.errors import Exit, UsageError

app = typer.Typer(
    name="qap",
    help="Build the QEMU patch queue and prove what it changes, on real guests and devices.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(soak, name="soak")

Source = Annotated[
    str | None,
    typer.Option(help="A QEMU tree to patch: a folder, a tarball, or “debian” to go back."),
]


@app.command()
def tree(
    source: Source = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Throw away work done in qemu/tree.")
    ] = False,
) -> None:
    """Make qemu/tree: the base with one commit for each patch."""
    from qap.fork import base, series
    from qap.host.lock import locked
    from qap.host.paths import Project

    project = Project.here()
    with locked(project.qemu):
        if source is not None and not discard:
            series.refuse_to_lose(project)
        found = base.ensure(project, source)
        series.ensure(project, discard=discard, update=True)
    print(f"qemu/tree: {found.title} + {len(series.patches(project))} patches")


@app.command()
def refresh(
    topic: Annotated[str | None, typer.Option(help="The topic of new commits.")] = None,
) -> None:
    """Write the commits of qemu/tree back to qemu/patches."""
    from qap.fork import series
    from qap.host.lock import locked
    from qap.host.paths import Project

    project = Project.here()
    with locked(project.qemu):
        changed = series.refresh(project, topic)
    for name in changed:
        print(f"changed: {name}")
    if not changed:
        print("qemu/patches: nothing changed")


@app.command()
def build(profile: Profile = "lab", base: Base = False) -> None:
    """Build the fork (or, with --base, the unpatched upstream)."""
    from qap.fork.build import Build, make

    wanted = Build(profile, base)
    make(wanted)
    for tool in wanted.tools():
        print(wanted.path(tool))


@app.command()
def path(tool: str, profile: Profile = "lab", base: Base = False) -> None:
    """Print the path of a built program, such as qemu-system-x86_64."""
    from qap.fork.build import Build

    print(Build(profile, base).path(tool))


@app.command()
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


@app.command()
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
    profile: Profile = "lab",
    base: Base = False,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page here.", callback=writable)
    ] = None,
) -> None:
    """What must happen beside what did, for every machine, transport, device and driver."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.matrix import cell
    from qap.matrix import run as running
    from qap.matrix.summary import write_page

    chosen = cell.selected(select or [])
    if shard:
        chosen = cell.shard(chosen, shard)
    build = Build(profile, base)
    make(build)
    done = running.matrix(chosen, build, jobs=jobs, resume=resume)
    if html:
        write_page(html, build, done.results, done.seconds)
    finish(done.report, json, [build])


@app.command()
def shell(
    confidential: Annotated[
        Literal["se", "sev"] | None,
        typer.Option(help="A simulated Secure Execution (s390x) or SEV (x86_64) guest."),
    ] = None,
    guest: Annotated[str | None, typer.Option(help="A guest of configs/guests.toml.")] = None,
    share: Annotated[
        Path | None, typer.Option(help="What virtiofsd shares; a scratch folder if not given.")
    ] = None,
    profile: Profile = "lab",
    base: Base = False,
) -> None:
    """A guest with its console on this terminal, and virtiofs ready to be hot-plugged."""
    from qap.fork.build import Build, make
    from qap.scenario import shell as shells

    build = Build(profile, base)
    kind = shells.ConfidentialKind(confidential) if confidential else None
    wanted = shells.Shell(build, guest, kind, share)
    make(build)
    wanted.run()


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="What to bring, as fetch lists it; all if none.")
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Try again where a better suite lacked something.")
    ] = False,
    json: Json = None,
) -> None:
    """Bring and check what the verbs take from the Debian archive, to be offline afterwards."""
    from qap.cli import archive
    from qap.cli import fetch as fetching
    from qap.cli.finish import finish

    report = fetching.fetch(archive.chosen(names or []), renew=renew)
    finish(report, json, failed=Exit.MISSING)


@app.command()
def doctor() -> None:
    """Show what this machine has and what has been built from what."""
    from qap.cli import doctor as examined

    raise typer.Exit(Exit.OK if examined.show() else Exit.MISSING)


@app.command()
def test(
    suites: Annotated[
        list[str] | None, typer.Argument(help="lint, unit, qtest-py, avocado; all if none.")
    ] = None,
    upstream: Annotated[
        bool,
        typer.Option("--upstream", help="Instead: QEMU's own qtests, on base and fork."),
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="A build profile; lab, or debian with --upstream."),
    ] = None,
    json: Json = None,
) -> None:
    """Run the checkers and the test suites on the fork; builds what is missing."""
    from qap.cli import archive
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.verify import test
    from qap.verify import upstream as upstream_suite

    if upstream and suites:
        raise UsageError("--upstream runs QEMU's own tests: name no suite beside it")
    chosen = test.chosen(suites or [])
    profile = profile or (upstream_suite.PROFILE if upstream else "lab")
    fork, base = Build(profile), Build(profile, is_base=True)
    extra = upstream_suite.ninja_targets() if upstream else []
    if upstream or any(suite in test.NEED_BUILDS for suite in chosen):
        archive.bring_for_guests()
        make(base, *extra)
        make(fork, *extra)
    report = upstream_suite.upstream(fork, base) if upstream else test.test(chosen, fork)
    finish(report, json, [fork, base])


@app.command()
def prove(
    names: Annotated[
        list[str] | None, typer.Argument(help="Patches or topics of qemu/series; all if none.")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Instead: build and boot the series up to each patch.")
    ] = False,
    profile: Profile = "lab",
    json: Json = None,
) -> None:
    """Run the tests that the patches name: they must fail on base and pass on the fork."""
    from qap.cli import archive
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.verify import prove as proving

    fork, base = Build(profile), Build(profile, is_base=True)
    chosen = proving.chosen(fork.project, names or [])
    if each:
        from qap.verify import bisect as prefixes

        report = prefixes.each(fork.project, chosen, profile)
        finish(report, json)
    archive.bring_for_guests()
    make(base)
    make(fork)
    report = proving.prove(chosen, fork, base)
    finish(report, json, [fork, base])


@app.command()
def repro(
    machine: Annotated[str | None, typer.Option(help="A machine type, such as q35.")] = None,
    device: Annotated[
        str | None, typer.Option(help="A device type, such as vhost-user-fs-pci.")
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="Instead of all the others: a cell of the matrix.")
    ] = None,
    hotplug: Annotated[bool, typer.Option("--hotplug", help="Hot-plug it over QMP.")] = False,
    replug: Annotated[bool, typer.Option("--replug", help="Hot-plug, unplug, plug again.")] = False,
    viommu: Annotated[str, typer.Option(help="A vIOMMU of configs/viommus.toml.")] = "none",
    order: Annotated[
        Literal["before", "after"], typer.Option(help="The vIOMMU's place, seen from the device.")
    ] = "before",
    bypass: Annotated[bool, typer.Option("--bypass", help="The root bus bypasses it.")] = False,
    iommu_platform: Annotated[
        bool, typer.Option("--iommu-platform/--no-iommu-platform", help="The device's property.")
    ] = True,
    confidential: Annotated[
        bool, typer.Option("--confidential", help="Simulate a confidential guest.")
    ] = False,
    guest: Annotated[str | None, typer.Option(help="A guest of configs/guests.toml.")] = None,
    profile: Profile = "lab",
    base: Base = False,
    json: Json = None,
) -> None:
    """Reproduce one case and explain it in one screen, with the commands to repeat it."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.scenario import repro as reproducing

    build = Build(profile, base)
    if cell is not None:
        from qap.matrix.cell import named
        from qap.matrix.run import alone

        chosen = named(cell)
        make(build)
        report = alone(chosen, build)
        finish(report, json, [build])
    if machine is None or device is None:
        raise UsageError("repro needs --machine and --device, or --cell")
    one = reproducing.scenario(
        machine=machine,
        device=device,
        guest=guest,
        plug="replug" if replug else "hot" if hotplug else "cold",
        viommu=viommu,
        order=order,
        bypass=bypass,
        iommu_platform=iommu_platform,
        confidential=confidential,
    )
    make(build)
    report = reproducing.repro(one, build)
    finish(report, json, [build])
