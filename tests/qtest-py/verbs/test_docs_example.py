"""docs/library.md: its test of 20 lines passes as it stands, and its snippets run."""

import ast
import importlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qap.fork.build import Build
from qap.host.paths import Project
from qap.oracle.fence import REFUSAL_PHRASE
from qap.verify.kit.lab import Lab
from qap.virtio.transports import TRANSPORTS

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r"\n(?=# qap\.)")
MODULES = re.compile(r"# (qap\.[\w.]+(?:, qap\.[\w.]+)*):")
EXAMPLE, BAD_RING, ROOMS = FENCE.findall((Project.here().root / "docs" / "library.md").read_text())
# Snippets that go on from one another.
GROUPS = ROOMS.strip().split("\n\n")


def pytest_says(path: Path, qemu: Path, **environment: str) -> tuple[int, str]:
    """Exit status and output of pytest on a file that is nowhere near this project."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path.name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=path.parent,
        env={**os.environ, "QEMU": str(qemu), **environment},
    )
    return done.returncode, done.stdout


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The page's test as a file."""
    path = tmp_path / "test_disk.py"
    path.write_text(EXAMPLE)
    return path


def test_example_has_20_lines_at_most() -> None:
    lines = [line for line in EXAMPLE.splitlines() if line]
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    assert not any(";" in line for line in lines)


def test_example_passes_on_the_fork(example: Path) -> None:
    status, said = pytest_says(example, Build("lab").path("qemu-system-x86_64"))
    assert status == 0, said
    assert "1 passed" in said


def test_stock_qemu_refuses_the_device_of_the_example(example: Path) -> None:
    status, said = pytest_says(example, Build("lab", True).path("qemu-system-x86_64"))
    assert status == 1, said
    assert f"QmpRefused: QMP device_add: {REFUSAL_PHRASE}" in said


def test_wheel_finds_its_catalogue(example: Path, tmp_path: Path) -> None:
    """As pip would install it: without the checkout, and not editable."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=Project.here().root, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("qap-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    asked = example.read_text() + "    print(Machine.__module__, os.sys.modules['qap'].__file__)\n"
    example.write_text(asked)
    qemu = Build("lab").path("qemu-system-x86_64")
    status, said = pytest_says(example, qemu, PYTHONPATH=str(site), PYTEST_ADDOPTS="-s")
    assert status == 0, said
    assert f"{site}/qap/__init__.py" in said


def test_bad_ring_has_ten_lines_and_the_outcome_that_it_says(lab: Lab) -> None:
    code = BAD_RING.partition("\n\n")[2]
    assert len(code.splitlines()) <= 10
    spec = TRANSPORTS["pci modern"].spec("virtio-rng")
    machine = lab.start("qemu-system-x86_64", spec)
    exec(BAD_RING, {**imported(EXAMPLE), "vm": machine})


def names(tree: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """The names that code loads, or stores."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in found if isinstance(node.ctx, context)}


def defined(module: str) -> dict[str, Any]:
    """The public names of a module, without what it imports from others."""
    return {
        name: value
        for name, value in vars(importlib.import_module(module)).items()
        if not name.startswith("_") and getattr(value, "__module__", module) == module
    }


def imported(code: str) -> dict[str, Any]:
    """What the import statements of code bring."""
    return {
        alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def snippets() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each snippet with its group, and the names that the page has imported by then."""
    there = imported(EXAMPLE)
    for group in GROUPS:
        for snippet in SNIPPET.split(group):
            modules = MODULES.match(snippet)
            assert modules, f"names no module: {snippet}"
            for module in modules[1].split(", "):
                there = there | defined(module)
            yield group, snippet, there


@pytest.mark.parametrize("number", range(len(GROUPS)))
def test_snippets_run(lab: Lab, number: int) -> None:
    made: dict[str, Any] = {
        "x86_64": lab.build.path("qemu-system-x86_64"),
        "s390x": lab.build.path("qemu-system-s390x"),
        "daemon": lab.build.path("qemu-storage-daemon"),
        "folder": lab.folder,
        "owned": lab.owned,
        "pytest": pytest,
    }
    for group, snippet, there in snippets():
        if group == GROUPS[number]:
            tree = ast.parse(snippet)
            scope = there | made
            exec(compile(tree, "docs/library.md", "exec"), scope)
            made |= {name: scope[name] for name in names(tree, ast.Store) & scope.keys()}
