"""The verbs of ./qap. Each imports what it needs when it runs, so that ./qap starts fast."""

from typing import Annotated

import typer

from qap.cli import tests, trials
from qap.cli.explain import explain
from qap.cli.export import export
from qap.cli.lab import lab
from qap.cli.measure import bench, soak
from qap.cli.options import Base, BaseSeries, Json, Profile
from qap.cli.repro import repro
from qap.host.errors import Exit

app = typer.Typer(
    name="qap",
    help="Build the QEMU patch queue and prove what it changes, on real guests and devices.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Source = Annotated[
    str | None,
    typer.Option(help="A QEMU tree to patch: a folder, a tarball, or “debian” to go back."),
]


def tree(
    source: Source = None,
    base_series: BaseSeries = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Throw away work done in qemu/tree.")
    ] = False,
) -> None:
    """Make qemu/tree: the base with one commit for each patch."""
    from qap.fork import base, config, series, variants
    from qap.host.lock import locked
    from qap.host.paths import Project

    project = Project.here(base_series)
    with locked(project.qemu):
        if source is not None and not discard:
            series.refuse_to_lose(project)
        upstream = base.ensure(project, source)
        series.ensure(project, discard=discard, update=True)
    queue, shared = series.patches(project), series.shared(project)
    tree = project.tree.relative_to(project.root)
    print(f"{tree}: {upstream.title} + {len(queue)} patches")
    if lacking := config.base(project).not_ported:
        print(f"not ported to {project.base_series} yet: {', '.join(lacking)}")
    for name in variants.outdated(project, shared):
        print(f"{name} has changed since its variant was made: look whether that has to change too")


def refresh(
    topic: Annotated[str | None, typer.Option(help="The topic of new commits.")] = None,
    base_series: BaseSeries = None,
) -> None:
    """Write the commits of qemu/tree back to qemu/patches; of a further base, to its variants."""
    from qap.fork import series
    from qap.host.lock import locked
    from qap.host.paths import Project

    project = Project.here(base_series)
    with locked(project.qemu):
        changed = series.refresh(project, topic)
    for name in changed:
        print(f"changed: {name}")
    if not changed:
        kept = project.patches if project.is_first else project.variants
        print(f"{kept.relative_to(project.root)}: nothing changed")


def build(profile: Profile = "lab", base: Base = False, base_series: BaseSeries = None) -> None:
    """Build the fork (or, with --base, the unpatched upstream)."""
    from qap.fork.build import Build, make
    from qap.host.paths import Project

    wanted = Build(profile, base, Project.here(base_series))
    make(wanted)
    for tool in wanted.tools():
        print(wanted.path(tool))


def path(
    tool: str, profile: Profile = "lab", base: Base = False, base_series: BaseSeries = None
) -> None:
    """Print the path of a built program, such as qemu-system-x86_64."""
    from qap.fork.build import Build
    from qap.host.paths import Project

    print(Build(profile, base, Project.here(base_series)).path(tool))


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


def doctor() -> None:
    """Show what this machine has and what has been built from what."""
    from qap.cli import doctor as examined

    raise typer.Exit(Exit.OK if examined.show() else Exit.MISSING)


for verb in (
    tree,
    refresh,
    build,
    path,
    export,
    trials.run,
    trials.matrix,
    trials.merge,
    trials.shell,
    fetch,
    doctor,
    tests.test,
    tests.prove,
    repro,
    explain,
):
    app.command()(verb)
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")
app.add_typer(soak, name="soak")
