"""The commands of docs/ci, run: on a few cells and tests, and with the results elsewhere.

tests/unit/verify/test_ci_templates.py sees to it that both templates have the same.
"""

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.paths import Project
from qap.matrix.cell import selected
from qap.verify.kit.ci_templates import GITHUB, commands

ROOT = Project.here().root
CELLS = "machine=q35,device=virtio-rng,viommu=none,plug=hot,driver=accepts|refuses"
# A part of each suite that takes a second.
PART = {
    "tests/unit ": "tests/unit/oracle/test_remedy.py ",
    "tests/avocado ": "tests/avocado/virtio_rng_pci.py --dry-run ",
    "prove fence ": "prove fence/0012 ",
}


def run(job: str, beginning: str, folder: Path, more: str = "") -> None:
    """Run a job's commands that begin so, as its shell does."""
    lines = [each.line for each in commands() if (each.template, each.job) == (GITHUB, job)]
    wanted = [line for line in lines if line.startswith(beginning)]
    assert wanted
    for line in wanted:
        short = line
        for whole, part in PART.items():
            short = short.replace(whole, part)
        short = short.replace("results/", f"{folder}/")
        argv = ["bash", "-e", "-c", short + more]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{short}\n{done.stdout}{done.stderr}"


@pytest.mark.timeout(300)
def test_shards_become_one_page_and_one_verdict(tmp_path: Path) -> None:
    run("matrix", "./qap matrix", tmp_path, f" --select '{CELLS}'")
    run("verdict", "./qap merge", tmp_path, f" --select '{CELLS}'")
    document = json.loads((tmp_path / "all.json").read_text())
    names = [cell.name for cell in selected([CELLS])]
    assert [line["cell"] for line in document["results"]] == names
    assert document["ok"]
    assert names[0].split("/")[-1] in (tmp_path / "matrix.html").read_text()


@pytest.mark.timeout(300)
def test_patches_are_proven(tmp_path: Path, other: Build) -> None:
    run("prove", "./qap prove fence ", tmp_path)
    document = json.loads((tmp_path / "prove-fence.json").read_text())
    assert document["ok"]
    assert all(line["proven"] for line in document["results"])


@pytest.mark.parametrize(
    ("job", "program", "file"),
    [
        ("pytest", ".venv/bin/pytest tests/unit", "unit.xml"),
        ("guests", ".venv/bin/avocado", "avocado.xml"),
    ],
)
def test_results_are_written_as_junit(job: str, program: str, file: str, tmp_path: Path) -> None:
    """A fresh checkout has no folder for them."""
    folder = tmp_path / "results"
    if job == "guests":
        run(job, "mkdir", folder)
    run(job, program, folder)
    cases = list(ET.parse(folder / file).iter("testcase"))
    assert cases
    assert all(case.get("name") and case.get("classname") for case in cases)
