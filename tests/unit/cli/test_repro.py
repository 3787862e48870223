"""The options of qap repro and --json, before anything is built."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qap.cli.main import app
from qap.host.errors import UsageError

from ..project import Project

CELL = "q35/modern/virtio-rng/in-qemu/none/any/on/hot/accepts"


def said(*words: str) -> str:
    """The error that ./qap ends with."""
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError)
    return str(result.exception)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--machine", "q35"), "--machine"),
        (("--viommu", "none"), "--viommu"),
        (("--device", "virtio-rng-pci", "--hotplug"), "--device, --hotplug"),
        (("--no-iommu-platform",), "--iommu-platform"),
        (("--guest", "x86_64", "--base"), "--guest"),
    ],
)
def test_cell_stands_alone(words: tuple[str, ...], named: str) -> None:
    wanted = f"a cell says all of that: leave out {named}, or --cell"
    assert said("repro", "--cell", CELL, *words) == wanted


def test_results_go_into_no_folder_that_is_not_there(tmp_path: Path, project: Project) -> None:
    missing = tmp_path / "nowhere" / "x.json"
    wanted = f"--json {missing}: No such file or directory"
    assert said("repro", "--machine", "q53", "--device", "none", "--json", str(missing)) == wanted
    assert not missing.parent.exists()


def test_folder_of_results_is_made(project: Project) -> None:
    path = project.root / "results" / "x.json"
    assert "unknown machine" in said(
        "repro", "--machine", "q53", "--device", "none", "--json", str(path)
    )
    assert path.exists()


def test_bundle_stands_alone() -> None:
    wanted = "a bundle says all of that: leave out --machine, --base, or --bundle-in"
    assert said("repro", "--bundle-in", "b", "--machine", "q35", "--base") == wanted


def test_bundle_goes_into_no_folder_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "b"
    words = ("--machine", "q35", "--device", "virtio-rng-pci", "--bundle", str(missing))
    assert said("repro", *words) == f"--bundle {missing}: No such file or directory"


def test_no_bundle_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_text("qemu-system-x86_64 -M q35")
    assert said("repro", "--bundle-in", str(path)) == f"--bundle-in {path}: no bundle of qap repro"
