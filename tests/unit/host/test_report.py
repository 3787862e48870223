"""The content of a --json file, and how feature bits are shown."""

import json
from pathlib import Path

import pytest

from qap import __version__
from qap.fork import series
from qap.fork.build import Build
from qap.fork.provenance import provenance
from qap.host import paths
from qap.host.report import Report, shortened

from ..project import Project, write

RESULT = {"name": "one", "problems": []}


def written(path: Path, builds: list[Build]) -> dict[str, object]:
    Report("run", False, 1.5, [RESULT]).write(path, provenance(paths.Project.here(), builds))
    read: dict[str, object] = json.loads(path.read_text())
    return read


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ([], ""),
        ([33], "33"),
        ([28, 29, 32, 33], "28-29 32-33"),
        ([0, 1, 2, 3], "0-3"),
        ([0, 2, 4], "0 2 4"),
        ([5, 32, 33, 34, 40], "5 32-34 40"),
    ],
)
def test_feature_bits_are_shown_in_ranges(bits: list[int], text: str) -> None:
    assert shortened(bits) == text


def test_report_has_the_documented_keys(project: Project, tmp_path: Path) -> None:
    project.add_patch("fence/0001-b.patch", "b", ("hw/bus.c", "bus line 5\n", "five\n"))
    upstream = project.bring()
    write(project.qemu / "tree/build/small/qap-build.json", '{"build": "fork"}')
    read = written(tmp_path / "report.json", [Build("small")])
    assert read == {
        "schema": 1,
        "version": __version__,
        "base": {
            "source": str(project.source),
            "package_version": "",
            "version": "10.0.99",
            "commit": upstream.commit,
            "left_out": ["roms"],
        },
        "queue": {"sha256": series.digest(project), "patches": ["fence/0001-b.patch"]},
        "builds": [{"build": "fork"}],
        "packages": [],
        "verb": "run",
        "ok": False,
        "seconds": 1.5,
        "results": [RESULT],
    }


def test_report_without_a_base_says_null(project: Project, tmp_path: Path) -> None:
    read = written(tmp_path / "report.json", [])
    assert read["base"] is None
    assert read["builds"] == []
