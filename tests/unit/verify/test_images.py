"""docker/: the images install what configs/ lists, and nothing that ./qap makes gets into them."""

import re
from pathlib import Path

import pytest

from qap.host.paths import Project

ROOT = Project.here().root
DEBIAN, FEDORA = ROOT / "configs/packages.txt", ROOT / "configs/packages-fedora.txt"
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
# For programs of docker/ alone.
ONLY_FEDORA = {"collecting programs for an image"}
LIBRARIES = "libraries of QEMU"


def purposes(path: Path) -> dict[str, list[str]]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def installed(file: Path) -> list[str]:
    """What the file itself names behind an `install`, without options and what a command says."""
    text = re.sub(r"\\\n", " ", re.sub(r"\$\([^()]*\)", "", file.read_text()))
    lists = re.findall(r"(?:apt-get|dnf) install ([^&\n]*)", text)
    return [word for words in lists for word in words.split() if not word.startswith("-")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_image_has_no_list_of_packages_of_its_own(file: Path) -> None:
    assert set(installed(file)) <= {"ca-certificates"}
    assert "/configs/packages" in file.read_text()


def test_package_that_is_named_is_found(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("RUN apt-get update && \\\n apt-get install -y \\\n gcc $(cat a) make && x\n")
    assert installed(file) == ["gcc", "make"]


def test_fedora_has_the_same_purposes() -> None:
    assert set(purposes(FEDORA)) - ONLY_FEDORA <= set(purposes(DEBIAN))
    needed = {name for name in purposes(DEBIAN) if name.startswith(("building QEMU", LIBRARIES))}
    assert needed | {"python", "firmware"} <= set(purposes(FEDORA))


@pytest.mark.parametrize(
    "purpose", [name for name in purposes(DEBIAN) if name.startswith(LIBRARIES)]
)
def test_fedora_has_each_library(purpose: str) -> None:
    debian, fedora = ({stem(name) for name in purposes(path)[purpose]} for path in (DEBIAN, FEDORA))
    assert debian == fedora


def stem(name: str) -> str:
    """A library's own name."""
    short = re.sub(r"(1g|[-\d.]+)?-dev(el)?$", "", name.removeprefix("lib"))
    return "numa" if short == "numactl" else short


def test_what_qap_makes_is_no_part_of_an_image() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    left_out = {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split()}
    assert set(ignored) - left_out == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_lists_of_packages_are_brought_and_dropped_in_one_layer(file: Path) -> None:
    """What a layer has stays in the image, also if a later one removes it."""
    layers = re.findall(r"^RUN (?:.*\\\n)*.*$", file.read_text(), re.MULTILINE)
    assert layers
    for layer in layers:
        if "apt-get update" in layer:
            assert "rm -rf /var/lib/apt/lists/*" in layer
        if "dnf install" in layer:
            assert "dnf clean all" in layer
        if "apt-get install" in layer:
            assert "apt-get update" in layer
