"""The verbs that test and prove."""

from pathlib import Path
from typing import Annotated

import typer

from qap.cli.options import BaseSeries, Json, Profile
from qap.host.errors import UsageError

AVOCADO = "avocado"


def test(
    suites: Annotated[
        list[str] | None, typer.Argument(help="lint, unit, qtest-py, lab, avocado; all if none.")
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tag", help="Only avocado tests with these tags: nightly, arch:s390x,-hotplug, …"
        ),
    ] = None,
    upstream: Annotated[
        bool,
        typer.Option("--upstream", help="Instead: QEMU's own qtests, on base and fork."),
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="A build profile; lab, or debian with --upstream."),
    ] = None,
    base_series: BaseSeries = None,
    json: Json = None,
) -> None:
    """Run the checkers and the test suites on the fork; builds what is missing."""
    from qap.cli import archive
    from qap.cli.finish import finish
    from qap.fork import series
    from qap.fork.build import Build, make
    from qap.host.paths import Project
    from qap.verify import test
    from qap.verify import upstream as upstream_suite
    from qap.verify.qtest_programs import TESTS, added

    if upstream and (suites or tags):
        raise UsageError("--upstream runs QEMU's own tests: name no suite or tag beside it")
    if tags and (suites or [AVOCADO]) != [AVOCADO]:
        raise UsageError("--tag chooses tests of avocado: name no other suite beside it")
    chosen = test.chosen([AVOCADO] if tags else suites or [])
    profile = profile or (upstream_suite.PROFILE if upstream else "lab")
    project = Project.here(base_series)
    fork, base = Build(profile, False, project), Build(profile, True, project)
    programs = [*TESTS, *added(series.patches(project))] if upstream else []
    if upstream or any(suite in test.NEED_BUILDS for suite in chosen):
        archive.bring_for_guests(compiled=test.wants_nightly(tags or []), lab=test.LAB in chosen)
        there = [program for program in programs if not program.added]
        make(base, *upstream_suite.ninja_targets(there))
        make(fork, *upstream_suite.ninja_targets(programs))
    report = (
        upstream_suite.upstream(fork, base, programs)
        if upstream
        else test.test(chosen, fork, tags or [])
    )
    finish(report, json, [fork, base])


def prove(
    names: Annotated[
        list[str] | None, typer.Argument(help="Patches or topics of qemu/series; all if none.")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Instead: build and boot the series up to each patch.")
    ] = False,
    fork_results: Annotated[
        Path | None,
        typer.Option(
            help="What ./qap test --json wrote: tests that it has are not run on the fork again."
        ),
    ] = None,
    profile: Profile = "lab",
    base_series: BaseSeries = None,
    json: Json = None,
) -> None:
    """Run the tests that the patches name: they must fail on base and pass on the fork."""
    from qap.cli import archive
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.host.paths import Project
    from qap.verify import prove as proving
    from qap.verify.seen import seen

    if each and fork_results:
        raise UsageError("--each runs no tests of the fork: leave --fork-results out")
    project = Project.here(base_series)
    fork, base = Build(profile, False, project), Build(profile, True, project)
    chosen = proving.chosen(fork.project, names or [])
    if each:
        from qap.verify import bisect as prefixes

        report = prefixes.each(fork.project, chosen, profile)
        finish(report, json)
    archive.bring_for_guests(lab=True)
    make(base)
    make(fork)
    known = seen(fork_results, fork) if fork_results else []
    report = proving.prove(chosen, fork, base, known)
    finish(report, json, [fork, base])
