"""The end of every verb that has a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from qap.fork.build import Build
from qap.fork.provenance import provenance
from qap.host.errors import Exit
from qap.host.paths import Project
from qap.host.report import Report


def save(report: Report, json: Path | None, builds: Sequence[Build] = ()) -> None:
    """Write the report where it was asked for."""
    if json:
        project = builds[0].project if builds else Project.here()
        report.write(json, provenance(project, builds))


def finish(
    report: Report, json: Path | None, builds: Sequence[Build] = (), failed: Exit = Exit.UNEXPECTED
) -> NoReturn:
    """Write the report if --json is given, and exit with the right code.

    Args:
        json: the file that --json names.
        builds: what was under test.
        failed: the exit code if not everything was as expected.
    """
    save(report, json, builds)
    raise typer.Exit(Exit.OK if report.ok else failed)
