"""The verbs of the kernel lab: `./qap lab`."""

from typing import Annotated

import typer

from qap.cli.options import Base, Json, Profile

lab = typer.Typer(
    help="A guest with the kernel's vhost, vDPA and VFIO devices, and QEMUs in it.",
    no_args_is_help=True,
)


@lab.command("list")
def lab_list() -> None:
    """Show the scenarios."""
    from qap.verify import lab as scenarios

    scenarios.show(scenarios.chosen([]))


@lab.command("run")
def lab_run(
    names: Annotated[
        list[str] | None, typer.Argument(help="Scenarios, as list shows them; all if none.")
    ] = None,
    profile: Profile = "lab",
    base: Base = False,
    json: Json = None,
) -> None:
    """Run scenarios: QEMU against real kernel devices."""
    from qap.cli import archive
    from qap.cli.finish import finish
    from qap.fork.build import Build, make
    from qap.verify import lab as scenarios

    chosen = scenarios.chosen(names or [])
    build = Build(profile, base)
    archive.bring_for_guests(lab=True)
    make(build)
    finish(scenarios.run(chosen, build), json, [build])


@lab.command("shell")
def lab_shell(profile: Profile = "lab", base: Base = False) -> None:
    """The lab's guest with its console on this terminal."""
    from qap.fork.build import Build, make
    from qap.lab.shell import shell

    build = Build(profile, base)
    make(build)
    shell(build)
