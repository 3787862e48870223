"""Command lines in the shapes that people have: nothing that matters to virtio is left over."""

from pathlib import Path

import pytest

from qap.explain.explanation import Explanation, explain
from qap.oracle.fence import Outcome

FOLDER = Path(__file__).parent / "command_lines"
W, R, U = Outcome.WORKS, Outcome.REFUSED, Outcome.UNSERVED
# What becomes of a device on stock QEMU and on the fork.
WELL = (W, W)
# Whether the back-end of each offers ACCESS_PLATFORM is not known.
EITHER = None

# file: machine type, IOMMU, devices that are worth a word; the others are well on both.
EXPECTED: dict[str, tuple[str, str, int, dict[str, tuple[Outcome, Outcome] | None]]] = {
    "libvirt-virtiofs.log": ("pc-q35-10.0", "", 5, {"fs0": (R, W)}),
    "libvirt-sev.log": ("pc-q35-noble", "", 5, {"fs0": (R, W), "balloon0": (U, U)}),
    "libvirt-viommu.log": (
        *("pc-q35-rhel9.6.0", "intel-iommu", 3),
        {"net0": EITHER, "net1": EITHER},
    ),
    "libvirt-se.log": ("s390-ccw-virtio-10.0", "the zPCI", 5, {"balloon0": (U, U)}),
    "libvirt-old.log": ("pc-i440fx-2.8", "", 4, {}),
    "libvirt-smmu.native": ("virt-10.0", "iommu=smmuv3", 4, {"fs0": (R, R)}),
    "libvirt-twice.log": (
        *("pc-q35-10.0", "amd-iommu", 2),
        {"behind": (R, R), "beside": (R, W)},
    ),
    "virt-install.log": ("pc-q35-7.2", "", 6, {}),
    "kata.ps": ("q35", "", 6, {}),
    "kata-tdx.log": ("q35", "", 3, {"fs0": (R, W)}),
    "kata-s390x.ps": ("s390-ccw-virtio", "the zPCI", 6, {}),
    "qm-showcmd.txt": ("pc-i440fx-9.2+pve1", "", 3, {}),
    "qm-showcmd-pretty.txt": ("q35+pve0", "virtio-iommu-pci", 4, {"virtiofs0": (R, R)}),
    "incus.log": ("q35", "", 9, {}),
    "incus-qemu.conf": ("q35", "", 7, {}),
    "virtiofs.sh": ("pc", "", 3, {"vhost-user-fs-pci": (R, W)}),
    "ovs-dpdk.sh": ("q35", "intel-iommu", 3, {"net1": EITHER}),
    "microvm.sh": ("microvm", "", 3, {}),
    "process.cmdline": ("virt", "virtio-iommu-pci", 5, {}),
    "transcript.txt": ("q35", "amd-iommu", 2, {"fs0": (R, R)}),
}


def explained(name: str) -> Explanation:
    return explain((FOLDER / name).read_bytes(), name, FOLDER, {})


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_is_left(name: str) -> None:
    assert explained(name).left == []


@pytest.mark.parametrize("name", EXPECTED)
def test_devices_and_what_becomes_of_them(name: str) -> None:
    machine, iommu, count, special = EXPECTED[name]
    found = explained(name)
    assert found.machine.type == machine
    assert (found.buses.iommus[-1] if found.buses.iommus else "").startswith(iommu)
    assert bool(found.buses.iommus) == bool(iommu)
    ends: dict[str, tuple[Outcome, Outcome] | None] = {}
    for one in found.predictions:
        if len(one.verdicts) > 1:
            ends[_name(one.name, special, one.backend.names)] = EITHER
            continue
        (verdict,) = one.verdicts
        if (pair := (verdict.driven_on_stock, verdict.driven.outcome)) != WELL:
            ends[_name(one.name, special, one.backend.names)] = pair
    assert ends == special
    named = [one for one in found.predictions if one.item.opts.get("driver") != "virtio-iommu-pci"]
    assert len(named) == count


def _name(own: str, special: object, others: tuple[str, ...]) -> str:
    """A device by its id or type, or by its netdev if that is what the table has."""
    assert isinstance(special, dict)
    return next((name for name in (own, *others) if name in special), own)


def test_each_file_is_expected() -> None:
    files = {path.name for path in FOLDER.iterdir()} - {"pve-q35-4.0.cfg"}
    assert files == set(EXPECTED)
    assert len(files) >= 20


def test_last_start_of_a_log_is_said() -> None:
    start = explained("libvirt-twice.log").start
    assert (start.starts, start.line) == (2, 11)


def test_hot_plugged_devices_are_told_from_cold_ones() -> None:
    hot = {one.name for one in explained("incus.log").predictions if one.item.hot}
    assert hot == {"dev-incus_share", "dev-incus_eth0"}
