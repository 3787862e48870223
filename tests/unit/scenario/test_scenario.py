"""What a scenario of the command line is, and what must become of it."""

import pytest

from qap.host.errors import UsageError
from qap.oracle.fence import Outcome
from qap.scenario.repro import scenario
from qap.scenario.scenario import Scenario


def a_scenario(device: str = "virtio-rng-pci", machine: str = "q35", **options: object) -> Scenario:
    return scenario(machine=machine, device=device, guest=None, **options)


@pytest.mark.parametrize(
    ("options", "fork", "base", "remedy"),
    [
        ({}, Outcome.UNSERVED, Outcome.UNSERVED, "iommu_platform=off for this device"),
        ({"iommu_platform": False}, Outcome.WORKS, Outcome.WORKS, ""),
        (
            {"confidential": "sev"},
            Outcome.UNSERVED,
            Outcome.UNSERVED,
            "none: a confidential guest can't use virtio-balloon",
        ),
        (
            {"confidential": "sev", "iommu_platform": False},
            Outcome.UNSERVED,
            Outcome.WORKS,
            "none: a confidential guest can't use virtio-balloon",
        ),
    ],
)
def test_balloon_is_served_without_the_bit_alone(
    options: dict[str, object], fork: Outcome, base: Outcome, remedy: str
) -> None:
    asked = scenario(machine="q35", device="virtio-balloon-pci", guest=None, **options)
    assert asked.expected().outcome == fork
    assert asked.expected(is_base=True).outcome == base
    assert asked.remedy(asked.expected()) == remedy


def test_confidential_guest_demands_the_bit_of_any_device() -> None:
    """The base has no confidential guests."""
    asked = a_scenario(confidential="sev", iommu_platform=False)
    assert asked.expected().outcome == Outcome.UNSERVED
    assert asked.remedy(asked.expected()) == "iommu_platform=on"
    assert asked.expected(is_base=True).outcome == Outcome.WORKS


@pytest.mark.parametrize(
    ("machine", "device", "kind", "said"),
    [
        ("s390-ccw-virtio", "virtio-rng-ccw", "tdx", "s390x can't be a TDX guest"),
        ("s390-ccw-virtio", "virtio-rng-ccw", "sev", "s390x can't be an SEV guest"),
        ("q35", "virtio-rng-pci", "se", "x86_64 can't be a Secure Execution guest"),
    ],
)
def test_guest_can_not_be_another_architectures_confidential_guest(
    machine: str, device: str, kind: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        a_scenario(device, machine, confidential=kind)


def test_command_and_title_name_the_kind() -> None:
    asked = a_scenario(confidential="tdx")
    assert asked.title == "q35, virtio-rng-pci, cold, as a TDX guest"
    assert asked.repro().endswith(" --confidential tdx")


def test_title_says_iommu_platform_once() -> None:
    assert a_scenario(iommu_platform=False).title == "q35, virtio-rng-pci, cold, iommu_platform=off"


@pytest.mark.parametrize(
    ("machine", "device", "said"),
    [
        ("q35", "vhost-user-fs-ccw", "q35 has pci, so no vhost-user-fs-ccw: try vhost-user-fs-pci"),
        (
            "s390-ccw-virtio",
            "vhost-user-rng-pci",
            "s390-ccw-virtio has ccw, so no vhost-user-rng-pci: vhost-user-rng has none for it",
        ),
        ("s390-ccw-virtio", "vhost-user-blk-pci", "try vhost-user-blk-ccw"),
        ("q35", "vhost-user-fs-pc", "unknown device 'vhost-user-fs-pc': did you mean .*-fs-pci"),
        ("pc-q35-9.2", "virtio-rng-pci", "pc-q35-9.2 is a version of q35, .* --machine q35"),
        ("pc-i440fx-9.2", "virtio-rng-pci", "is a version of pc, "),
        ("s390-ccw-virtio-9.2", "virtio-rng-ccw", "is a version of s390-ccw-virtio, "),
        ("q53", "virtio-rng-pci", "unknown machine 'q53': did you mean q35"),
    ],
)
def test_wrong_name_gets_the_right_one(machine: str, device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        a_scenario(device, machine)
