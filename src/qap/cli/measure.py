"""The verbs that measure: `./qap bench` and `./qap soak`."""

from typing import Annotated, Literal

import typer

from qap.cli.options import Base, Json, Profile

bench = typer.Typer(help="Measure what things cost.", no_args_is_help=True)


@bench.command("matrix")
def bench_matrix(profile: Profile = "lab", json: Json = None) -> None:
    """A cell of the matrix beside a test of upstream's qos-test, from the same tree."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.measure import matrix as costs
    from qap.verify.qtest_programs import QOS

    build = Build(profile)
    make(build, QOS.ninja_target)
    report = costs.bench(build)
    finish(report, json, [build])


@bench.command("io")
def bench_io(
    times: Annotated[
        int, typer.Option(help="As many times the usual rounds, for a closer look.", min=1)
    ] = 1,
    only: Annotated[
        Literal["counts", "rates"] | None,
        typer.Option(help="Only QEMU's instructions, or only the guests' requests a second."),
    ] = None,
    profile: Profile = "lab",
    json: Json = None,
) -> None:
    """What the patches cost where data flows: fork against base, in turns."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.measure import io

    fork, base = Build(profile), Build(profile, is_base=True)
    make(base)
    make(fork)
    report = io.bench(fork, base, [only] if only else io.PARTS, times)
    finish(report, json, [fork, base])


@bench.command("confidential")
def bench_confidential(
    only: Annotated[
        Literal["off", "on"] | None, typer.Option(help="What it costs off, or on; both if none.")
    ] = None,
    profile: Profile = "lab",
    json: Json = None,
) -> None:
    """What x-confidential-sim costs: off, beside the queue without it; on, beside a plain guest."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.measure import confidential as costs

    build = Build(profile)
    make(build)
    report = costs.bench(build, [only] if only else costs.PARTS)
    finish(report, json, [build])


soak = typer.Typer(
    help="Do the same for a long time, and see that nothing grows.", no_args_is_help=True
)


@soak.command("hotplug")
def soak_hotplug(
    cycles: Annotated[int, typer.Option(help="How many in all.", min=1)] = 10_000,
    jobs: Annotated[int | None, typer.Option(help="QEMUs at a time.", min=1)] = None,
    profile: Profile = "lab",
    base: Base = False,
    json: Json = None,
) -> None:
    """Plug and unplug, a third of it failing: no descriptor, object, thread or memory stays."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.measure import soak as soaking

    build = Build(profile, base)
    make(build)
    report = soaking.soak(build, cycles, jobs)
    finish(report, json, [build])


@soak.command("hostile")
def soak_hostile(
    episodes: Annotated[int, typer.Option(help="How many in all.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="From which they all follow.", min=0)] = 1,
    episode: Annotated[
        str | None, typer.Option(help="Only this one, SEED:NUMBER, with a trace of what it does.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Only these steps of the episode, such as 0,3,7.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="QEMUs at a time.", min=1)] = None,
    profile: Profile = "lab",
    base: Base = False,
    json: Json = None,
) -> None:
    """Drivers that do what none should: QEMU does not end, hang, or write where it may not."""
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.measure.hostile import alone, sweep
    from qap.measure.hostile.name import EpisodeName, step_numbers

    names = EpisodeName.parse(episode) if episode else []
    only = step_numbers(steps) if steps else ()
    build = Build(profile, base)
    make(build)
    if names:
        finish(alone.alone(build, names, only), json, [build])
    finish(sweep.sweep(build, seed, episodes, jobs), json, [build])
