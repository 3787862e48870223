"""How every verb that has a report ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from qap.fork.build import Build
from qap.fork.provenance import provenance
from qap.host.errors import Exit
from qap.host.paths import Project
from qap.host.report import Report


def finish(
    report: Report, json: Path | None, builds: Sequence[Build] = (), failed: Exit = Exit.UNEXPECTED
) -> NoReturn:
    """Write the report where it was asked for, and end with its exit code.

    Args:
        json: the file that --json names.
        builds: what was under test.
        failed: the exit code where not everything was as expected.
    """
    if json:
        report.write(json, provenance(Project.here(), builds))
    raise typer.Exit(Exit.OK if report.ok else failed)
