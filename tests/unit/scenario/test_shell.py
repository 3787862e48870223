"""What `qap shell` boots, and the device that it says to plug."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.machine.catalog import machine_types
from qap.scenario.confidential_kind import ConfidentialKind
from qap.scenario.scenario import Scenario
from qap.scenario.shell import Shell, scenario_for

FORK, BASE = Build("lab"), Build("lab", is_base=True)


def asked(
    build: Build, options: Mapping[str, str], kind: ConfidentialKind | None = None
) -> Scenario:
    """The scenario of these options, by their names."""
    return scenario_for(
        build,
        machine=options.get("machine"),
        device=options.get("device"),
        viommu=options.get("viommu", "none"),
        confidential=kind,
        guest=options.get("guest"),
    )


@pytest.mark.parametrize(
    ("build", "options", "iommu_platform"),
    [
        (FORK, {}, True),
        (FORK, {"viommu": "intel-iommu"}, False),
        (FORK, {"viommu": "intel-iommu", "device": "virtio-rng-pci"}, True),
        (FORK, {"device": "virtio-balloon-pci"}, False),
        (BASE, {}, False),
        (BASE, {"machine": "pc"}, False),
        (BASE, {"device": "virtio-rng-pci"}, True),
        (BASE, {"machine": "s390-ccw-virtio"}, True),
    ],
)
def test_device_has_the_bit_where_it_plugs_and_is_served(
    build: Build, options: dict[str, str], iommu_platform: bool
) -> None:
    assert asked(build, options).iommu_platform == iommu_platform


@pytest.mark.parametrize(
    ("kind", "options", "guest", "machine"),
    [
        (None, {}, "x86_64", "q35"),
        (None, {"machine": "s390-ccw-virtio"}, "s390x", "s390-ccw-virtio"),
        (None, {"guest": "x86_64-forky"}, "x86_64-forky", "q35"),
        (None, {"guest": "x86_64-forky", "machine": "pc"}, "x86_64-forky", "pc"),
        (ConfidentialKind.SE, {}, "s390x", "s390-ccw-virtio"),
        (ConfidentialKind.SNP, {}, "x86_64", "q35"),
        (ConfidentialKind.TDX, {"machine": "pc"}, "x86_64", "pc"),
    ],
)
def test_guest_and_machine_find_each_other(
    kind: ConfidentialKind | None, options: dict[str, str], guest: str, machine: str
) -> None:
    found = asked(FORK, options, kind)
    assert (found.guest, found.machine_type.name, found.driver.rpartition("-")[0]) == (
        guest,
        machine,
        "vhost-user-fs",
    )


@pytest.mark.parametrize("options", [{"guest": "nowhere"}, {"machine": "q53"}, {"device": "rng"}])
def test_name_that_is_not_known_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="unknown"):
        asked(FORK, options)


def test_base_has_no_line_for_what_it_lacks() -> None:
    with pytest.raises(UsageError, match="stock QEMU has no vhost-user-blk-ccw"):
        scenario_for(BASE, machine="s390-ccw-virtio", device="vhost-user-blk-ccw")


def test_ports_are_of_a_machine_that_has_them() -> None:
    with pytest.raises(UsageError, match="pc needs no ports"):
        Shell(FORK, scenario_for(FORK, machine="pc"), ports=2)


@pytest.mark.parametrize(
    ("device", "first"),
    [
        ("vhost-user-net", "netdev_add vhost-user,id=between0,chardev=share"),
        ("vhost-user-crypto", "object_add cryptodev-vhost-user,id=between0,chardev=share"),
        ("vhost-user-fs-pci", "device_add vhost-user-fs-pci,id=dut,bus=port0,chardev=share"),
    ],
)
def test_what_is_between_chardev_and_device_is_plugged_first(device: str, first: str) -> None:
    lines = Shell(FORK, scenario_for(FORK, device=device)).plugging(Path("/tmp/share.sock"))
    assert lines[0].startswith(first)
    assert lines[-1].startswith("device_add ")


def test_each_free_port_is_one_of_its_own() -> None:
    q35 = machine_types()["q35"]
    ports = q35.free_ports(3)
    assert ports[:1] == q35.ports
    assert [port["id"] for port in ports] == ["port0", "port1", "port2"]
    assert len({port["slot"] for port in ports}) == len({port["chassis"] for port in ports}) == 3
    assert machine_types()["pc"].free_ports(3) == []
