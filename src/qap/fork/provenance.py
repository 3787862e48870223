"""What was under test: base, queue and builds, for a report."""

from collections.abc import Sequence
from dataclasses import asdict

from qap.fork import base, series
from qap.fork.build import Build
from qap.host.paths import Project


def provenance(project: Project, builds: Sequence[Build]) -> dict[str, object]:
    """The keys `base`, `queue` and `builds` of docs/json.md."""
    upstream = base.info(project)
    return {
        "base": asdict(upstream) if upstream else None,
        "queue": {
            "sha256": series.digest(project),
            "patches": [patch.name for patch in series.patches(project)],
        },
        "builds": [build.provenance() for build in builds],
    }
