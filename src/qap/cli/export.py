"""`qap export`: the queue, for those who package QEMU or send patches to it."""

from pathlib import Path
from typing import Annotated

import typer

from qap.cli.options import BaseSeries


def export(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    signed_off_by: Annotated[
        str | None,
        typer.Option(metavar="'NAME <ADDRESS>'", help="Who sends the patches; else nobody does."),
    ] = None,
    base_series: BaseSeries = None,
) -> None:
    """Write the queue for quilt, gbp, git am, Debian's and RPM's packages, and a list of it."""
    from qap.export import folder as exported
    from qap.export.sign_off import person
    from qap.host.lock import locked
    from qap.host.paths import Project

    project = Project.here(base_series)
    sender = None if signed_off_by is None else person(signed_off_by)
    with locked(project.qemu):
        queue = exported.export(project, folder.absolute(), sender)
    print(f"{folder}: {len(queue.commits)} patches on {queue.base.title}")
    if sender is None:
        print("nobody has signed them off: --signed-off-by 'NAME <ADDRESS>' does")
