"""The verb repro: one case, in a guest or at device level."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from qap.host.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from qap.fork.build import Build
    from qap.host.report import Report
    from qap.machine.recording import Recording
    from qap.matrix.cell import Cell
    from qap.scenario.bundle import Bundle
    from qap.scenario.request import Request

BESIDE_CELL = ("cell", "profile", "base", "base_series", "json", "bundle")
BESIDE_BUNDLE = ("bundle_in", "json", "bundle")


def repro(
    context: typer.Context,
    machine: Machine = None,
    device: DeviceName = None,
    cell: Annotated[
        str | None, typer.Option(help="Instead of all the others: a cell of the matrix.")
    ] = None,
    hotplug: Annotated[bool, typer.Option("--hotplug", help="Hot-plug it over QMP.")] = False,
    replug: Annotated[bool, typer.Option("--replug", help="Hot-plug, unplug, plug again.")] = False,
    viommu: ViommuName = "none",
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
    busy: Annotated[
        bool, typer.Option("--busy", help="The guest reads another disk meanwhile.")
    ] = False,
    kill_backend: Annotated[
        Literal["idle", "busy"] | None,
        typer.Option(help="Kill its back-end while the guest is idle, or reads; start it again."),
    ] = None,
    fail_requests: Annotated[
        bool, typer.Option("--fail-requests", help="x-fail-requests=on, for a vhost-user-fs.")
    ] = False,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="The guest migrates to a second QEMU.")
    ] = False,
    confidential: Confidential = None,
    later: Annotated[
        str, typer.Option(help="What becomes of it: leaves, returns, moves-on, moves-off, …")
    ] = "",
    no_guest: Annotated[
        bool, typer.Option("--no-guest", help="At device level, even where a guest would do.")
    ] = False,
    guest: GuestName = None,
    profile: Profile = "lab",
    base: Base = False,
    base_series: BaseSeries = None,
    json: Json = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write all of it here, for a bug report.", callback=writable),
    ] = None,
    bundle_in: Annotated[
        Path | None, typer.Option(help="Instead of all the others: carry out this bundle's case.")
    ] = None,
) -> None:
    """Reproduce one case and explain it in one screen, with the commands to repeat it."""
    from qap import __version__
    from qap.cli.finish import finish
    from qap.fork.provenance import provenance
    from qap.machine.recording import Recording
    from qap.scenario import bundle as bundles
    from qap.scenario.request import Request

    there = None
    if bundle_in is not None:
        _alone(context, BESIDE_BUNDLE, "a bundle", "--bundle-in")
        there = bundles.read(bundle_in)
        asked = there.request
    elif cell is not None:
        _alone(context, BESIDE_CELL, "a cell", "--cell")
        asked = Request(cell=cell, profile=profile, base=base, base_series=base_series)
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
            busy=busy,
            kill_backend=kill_backend or "",
            fail_requests=fail_requests,
            migrate=migrate,
            later=later,
            no_guest=no_guest,
            profile=profile,
            base=base,
            base_series=base_series,
        )
    recording = Recording() if bundle else None
    report = carry_out(asked, recording)
    build = asked.build
    (result,) = report.results
    versions = {"qap": __version__, **provenance(build.project, [build])}
    if bundle and recording:
        bundles.Bundle.of(asked, versions, result, recording).write(bundle)
    if there:
        _compare(there, result, versions)
    finish(report, json, [build])


def _compare(there: "Bundle", result: "Mapping[str, Any]", versions: "Mapping[str, Any]") -> None:
    """Print how the case ended where the bundle was made, and here."""
    import json

    from rich.console import Console

    from qap.host.report import bad, good
    from qap.scenario.bundle import outcome

    was, now = there.outcome, outcome(result)
    same = good("the same") if was == now else bad("not the same")
    Console().print(f"there: {was}; here: {now}: {same}", highlight=False)
    for key in ("qap", "base", "queue"):
        if there.versions.get(key) != json.loads(json.dumps(versions[key])):
            Console().print(f"{key}: not the same version as there", highlight=False)


def carry_out(asked: "Request", recording: "Recording | None" = None) -> "Report":
    """Show the case, and print it.

    Args:
        recording: gathers what is said.
    Raises:
        UsageError: there is no such case.
    """
    from qap.fork.build import make
    from qap.host.report import Report
    from qap.machine.asked import asked as named
    from qap.matrix.asked import asked_cell
    from qap.matrix.cell import named as cell_named
    from qap.scenario import repro as reproducing

    build = asked.build
    if asked.cell:
        return _at_device_level(cell_named(asked.cell), build, recording)
    machine, kind = named(asked.machine, asked.device)
    if why := asked.without_guest(machine, kind):
        cell = asked_cell(machine, kind, asked)
        report = _at_device_level(cell, build, recording, why)
        (result,) = report.results
        return Report(report.verb, report.ok, report.seconds, [{**result, "repro": asked.command}])
    scenario = reproducing.scenario(
        machine=asked.machine,
        device=asked.device,
        guest=asked.guest,
        confidential=asked.confidential,
        features=asked.backend,
        **asked.choices,
    )
    make(build)
    return reproducing.repro(scenario, build, recording)


def _at_device_level(
    cell: "Cell", build: "Build", recording: "Recording | None", why: str = ""
) -> "Report":
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
    report = alone(cell, build, why, recording)
    results: Sequence[dict[str, object]] = report.results
    return Report(
        report.verb, report.ok, report.seconds, [{"level": "device", **one} for one in results]
    )


def _alone(context: typer.Context, beside: "Collection[str]", what: str, option: str) -> None:
    """Refuse options that are decided already.

    Args:
        beside: parameters that are not.
        what: decides, and was given by this option.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if name not in beside and source is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"{what} says all of that: leave out {', '.join(given)}, or {option}")
