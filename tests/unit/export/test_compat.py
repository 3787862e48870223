"""compat/: the properties of a queue as stock QEMU and the first base's fork have them."""

from pathlib import Path

import pytest

from qap.export import compat
from qap.export.folder import export
from qap.host import paths

from ..project import Project

# The repository's own queue; the fixtures make qap work on another one.
REAL = paths.Project.here()

MACHINE = "hw/pci.c"
ADDED = "".join(
    f'    {{ "{of}", "{name}", "{value}" }},\n'
    for of, name, value in (
        ("virtio-device", "x-ask", "off"),
        ("virtio-ccw-device", "x-offer", "on"),
    )
)
DEFINED = '    DEFINE_PROP_BOOL("x-ask", Bus, asks, true),\n'
OTHERS = """\
    DEFINE_PROP_BOOL("x-offer", Ccw, offers, false),
    DEFINE_PROP_BOOL("x-same-on-all", Ccw, same, false),
"""


@pytest.fixture
def written(queue: Project, tmp_path: Path) -> Path:
    """compat/ of a queue whose patches add three properties."""
    queue.add_patch(
        "ccw/0003-machine-ask.patch",
        "machine: ask",
        (MACHINE, "pci line 20\n", ADDED),
        ("hw/bus.c", "bus line 20\n", DEFINED),
        ("hw/ccw.c", "ccw line 20\n", OTHERS),
    )
    with (queue.qemu / "users/ccw.toml").open("a") as file:
        file.write('"machine: ask" = "It asks."\n')
    export(queue, tmp_path / "out", None)
    return tmp_path / "out/compat"


def triples(text: str) -> list[tuple[str, ...]]:
    """Type, property and value of each [global]."""
    values = [line.split(" = ")[1] for line in text.splitlines() if " = " in line]
    return list(zip(*[iter(values)] * 3, strict=True))


def globals_of(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text().splitlines() if " = " in line]


def test_each_property_that_differs_is_set_as_on_older_machines(written: Path) -> None:
    assert globals_of(written / compat.EVERYWHERE) == [
        'driver = "virtio-device"',
        'property = "x-ask"',
        'value = "off"',
    ]


def test_what_only_ccw_has_is_in_a_file_of_its_own(written: Path) -> None:
    assert globals_of(written / compat.CCW) == [
        'driver = "virtio-ccw-device"',
        'property = "x-offer"',
        'value = "on"',
    ]


def test_further_base_has_the_properties_of_the_first_ones_fork() -> None:
    """This repository's own, as the first base's machine type has them without an option."""
    made = {name: set(triples(text)) for name, text in compat.files(REAL.on("10.2")).items()}
    first = compat.files(REAL.on("10.0"))
    for kind in (".cfg", "-ccw.cfg"):
        stock, fork = made[f"stock{kind}"], made[f"fork-10.0{kind}"]
        assert stock
        assert {one[:2] for one in stock} == {one[:2] for one in fork}
        assert not stock & fork
        assert {one[:2] for one in fork} <= {one[:2] for one in triples(first[f"stock{kind}"])}


def test_first_base_has_no_switch_to_its_own_fork(written: Path) -> None:
    assert {file.name for file in written.iterdir()} == {compat.EVERYWHERE, compat.CCW}
