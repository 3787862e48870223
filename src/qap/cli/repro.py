"""The verb repro: one case, in a guest or at device level."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qap.cli.options import Base, Json, Profile
from qap.host.errors import UsageError

if TYPE_CHECKING:
    from qap.fork.build import Build
    from qap.host.report import Report
    from qap.matrix.cell import Cell
    from qap.scenario.request import Request

BESIDE_CELL = ("cell", "profile", "base", "json")


def repro(
    context: typer.Context,
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
    behind: Annotated[
        str, typer.Option(help="Where the device is: root-bus, pxb or pcie-pci-bridge of q35.")
    ] = "",
    iommu_platform: Annotated[
        bool, typer.Option("--iommu-platform/--no-iommu-platform", help="The device's property.")
    ] = True,
    backend: Annotated[
        str, typer.Option(help="What a vhost-user back-end offers, such as ACCESS_PLATFORM.")
    ] = "",
    queues: Annotated[int, typer.Option(help="How many request queues it has.", min=0)] = 0,
    iothread: Annotated[bool, typer.Option("--iothread", help="An iothread serves it.")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="Packed rings.")] = False,
    ats: Annotated[
        bool, typer.Option("--ats", help="It and the vIOMMU have a translation service.")
    ] = False,
    confidential: Annotated[
        Literal["se", "sev", "tdx"] | None,
        typer.Option(help="A simulated Secure Execution (s390x), SEV or TDX (x86_64) guest."),
    ] = None,
    later: Annotated[
        str, typer.Option(help="What becomes of it: leaves, returns, moves-on, moves-off, …")
    ] = "",
    no_guest: Annotated[
        bool, typer.Option("--no-guest", help="At device level, even where a guest would do.")
    ] = False,
    guest: Annotated[str | None, typer.Option(help="A guest of configs/guests.toml.")] = None,
    profile: Profile = "lab",
    base: Base = False,
    json: Json = None,
) -> None:
    """Reproduce one case and explain it in one screen, with the commands to repeat it."""
    from qap.cli.finish import finish
    from qap.fork.build import Build
    from qap.scenario.request import Request

    if cell is not None:
        _only_cell(context)
        asked = Request(cell=cell, profile=profile, base=base)
    elif machine is None or device is None:
        raise UsageError("repro needs --machine and --device, or --cell")
    else:
        asked = Request(
            machine=machine,
            device=device,
            guest=guest,
            plug="replug" if replug else "hot" if hotplug else "cold",
            viommu=viommu,
            order=order,
            bypass=bypass,
            behind=behind,
            iommu_platform=iommu_platform,
            confidential=confidential,
            backend=backend,
            queues=queues,
            iothread=iothread,
            packed=packed,
            ats=ats,
            later=later,
            no_guest=no_guest,
            profile=profile,
            base=base,
        )
    report = carry_out(asked)
    finish(report, json, [Build(asked.profile, asked.base)])


def carry_out(asked: "Request") -> "Report":
    """Show the case, and print it.

    Raises:
        UsageError: there is no such case.
    """
    from qap.fork.build import Build, make
    from qap.host.report import Report
    from qap.machine.asked import asked as named
    from qap.matrix.asked import asked_cell
    from qap.matrix.cell import named as cell_named
    from qap.scenario import repro as reproducing

    build = Build(asked.profile, asked.base)
    if asked.cell:
        return _at_device_level(cell_named(asked.cell), build)
    machine, kind = named(asked.machine, asked.device)
    if why := asked.without_guest(machine, kind):
        cell = asked_cell(machine, kind, asked)
        report = _at_device_level(cell, build, why)
        (result,) = report.results
        return Report(report.verb, report.ok, report.seconds, [{**result, "repro": asked.command}])
    scenario = reproducing.scenario(
        machine=asked.machine,
        device=asked.device,
        guest=asked.guest,
        plug=asked.plug,
        viommu=asked.viommu,
        order=asked.order,
        bypass=asked.bypass,
        behind=asked.behind,
        iommu_platform=asked.iommu_platform,
        confidential=asked.confidential,
        features=asked.backend,
        queues=asked.queues,
        iothread=asked.iothread,
        packed=asked.packed,
        ats=asked.ats,
    )
    make(build)
    return reproducing.repro(scenario, build)


def _at_device_level(cell: "Cell", build: "Build", why: str = "") -> "Report":
    """Drive the device from Python.

    Args:
        why: no guest shows it; "" for a cell that was asked for by its name.
    """
    from qap.cli import archive
    from qap.fork.build import make
    from qap.host.report import Report
    from qap.matrix.run import alone

    if cell.config.in_lab:
        archive.bring_for_guests()
    make(build)
    report = alone(cell, build, why)
    results: Sequence[dict[str, object]] = report.results
    return Report(
        report.verb, report.ok, report.seconds, [{"level": "device", **one} for one in results]
    )


def _only_cell(context: typer.Context) -> None:
    """Refuse options beside --cell that the cell decides."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if name not in BESIDE_CELL and source is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"a cell says all of that: leave out {', '.join(given)}, or --cell")
