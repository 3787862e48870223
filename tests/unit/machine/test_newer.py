"""A vIOMMU gets the properties that an emulator has, and no other device or emulator does."""

from pathlib import Path

import pytest

from qap.machine.newer import completed, is_newer
from qap.machine.spec import Spec

OLDER = "#!/bin/sh\necho '  intremap=<OnOffAuto> - on/off/auto'\n"
NEWER = OLDER + "echo '  dma-remap=<bool>       - on/off (default: off)'\n"


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    return tmp_path / "qemu-system-x86_64"


@pytest.mark.parametrize(
    ("says", "device", "made"),
    [
        (NEWER, {"driver": "amd-iommu"}, {"driver": "amd-iommu", "dma-remap": True}),
        (OLDER, {"driver": "amd-iommu"}, {"driver": "amd-iommu"}),
        (NEWER, {"driver": "intel-iommu"}, {"driver": "intel-iommu"}),
        (NEWER, {"driver": "amd-iommu", "dma-remap": False}, None),
    ],
)
def test_property_is_set_where_the_emulator_has_it(
    emulator: Path, says: str, device: dict[str, object], made: dict[str, object] | None
) -> None:
    emulator.write_text(says)
    emulator.chmod(0o755)
    spec = Spec("q35", devices=[device])
    assert list(completed(spec, emulator).devices) == [made or device]


@pytest.mark.parametrize(("says", "newer"), [(NEWER, True), (OLDER, False)])
def test_emulator_is_newer_if_it_has_them_all(emulator: Path, says: str, newer: bool) -> None:
    emulator.write_text(says)
    emulator.chmod(0o755)
    assert is_newer("amd-iommu", emulator) is newer
    assert is_newer("intel-iommu", emulator)
