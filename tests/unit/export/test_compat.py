"""compat/: the properties of a queue as stock QEMU has them."""

from pathlib import Path

import pytest

from qap.export import compat
from qap.export.folder import export

from ..project import Project

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
