"""Plugging with iommu_platform=on: which device, on which bus, in which order."""

from pathlib import Path

import pytest

from qap.machine.catalog import plain_types
from qap.machine.machine import Machine
from qap.oracle.fence import REFUSAL_PHRASE
from qap.verify.kit.lab import Lab

VIOMMUS = ("intel-iommu", "virtio-iommu")
ORDERS = ("before", "after")


def offers_access_platform(machine: Machine) -> bool:
    """Whether the device under test offers VIRTIO_F_ACCESS_PLATFORM to its driver."""
    paths = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    (path,) = [path for path in paths if "/dut/" in path]
    status = machine.qmp.execute("x-query-virtio-status", path=path)
    return any("VIRTIO_F_IOMMU_PLATFORM" in text for text in status["host-features"]["transports"])


@pytest.mark.parametrize("kind", plain_types())
def test_untranslated_device_plugs(lab: Lab, kind: str) -> None:
    """Without an IOMMU a back-end need not translate, and never hears of the bit."""
    backend = lab.backend(kind, access_platform=False)
    machine = lab.machine()
    assert machine.refusal(lab.device(kind, backend)) == ""
    assert offers_access_platform(machine)


@pytest.mark.parametrize("viommu", ["none", *VIOMMUS])
def test_vhost_user_netdev_follows_the_same_table(lab: Lab, viommu: str) -> None:
    """virtio-net-pci in front of -netdev vhost-user, whose back-end does not translate."""
    backend = lab.backend("vhost-user-rng", access_platform=False)
    netdev = f"vhost-user,id=net0,chardev={backend.path.stem}"
    machine = lab.machine(viommu=viommu, extra=["-netdev", netdev])
    device = {"driver": "virtio-net-pci", "id": "dut", "bus": "port0", "netdev": "net0"}
    said = machine.refusal({**device, "iommu_platform": True})
    assert (REFUSAL_PHRASE in said) == (viommu != "none")


@pytest.mark.parametrize("viommu", VIOMMUS)
@pytest.mark.parametrize("kind", plain_types())
def test_translated_device_is_refused(lab: Lab, kind: str, viommu: str) -> None:
    """Behind an IOMMU the back-end must translate; the VM runs on and takes the next device."""
    backend = lab.backend(kind, access_platform=False)
    machine = lab.machine(viommu=viommu)
    assert REFUSAL_PHRASE in machine.refusal(lab.device(kind, backend))
    assert machine.alive
    rng = {"driver": "virtio-rng-pci", "bus": "port0", "iommu_platform": True}
    assert machine.refusal(rng) == ""


@pytest.mark.parametrize("viommu", VIOMMUS)
def test_translating_backend_plugs_behind_an_iommu(lab: Lab, viommu: str) -> None:
    backend = lab.backend("vhost-user-blk", access_platform=True)
    machine = lab.machine(viommu=viommu)
    assert machine.refusal(lab.device("vhost-user-blk", backend)) == ""
    assert offers_access_platform(machine)


@pytest.mark.parametrize("viommu", VIOMMUS)
def test_order_on_the_command_line_does_not_matter(lab: Lab, viommu: str) -> None:
    """Refused before and after the vIOMMU, and for no other reason than the vIOMMU."""
    device = lab.device("vhost-user-fs", lab.backend("vhost-user-fs", access_platform=False))
    said = {order: lab.cold_refusal(device, viommu=viommu, order=order) for order in ORDERS}
    assert all(REFUSAL_PHRASE in text for text in said.values())
    reasons = {text[text.index("vhost-user-fs-pci '") :] for text in said.values()}
    assert len(reasons) == 1, said
    assert lab.cold_refusal(device) == ""


@pytest.mark.parametrize("order", ORDERS)
def test_bypassed_bus_is_untranslated(lab: Lab, order: str) -> None:
    """A root bus with bypass_iommu=on is untranslated wherever the vIOMMU stands."""
    device = lab.device("vhost-user-fs", lab.backend("vhost-user-fs", access_platform=False))
    said = lab.cold_refusal(device, viommu="intel-iommu", order=order, bypass=True)
    assert said == ""


def test_bypassed_bus_takes_a_hotplugged_device(lab: Lab) -> None:
    backend = lab.backend("vhost-user-fs", access_platform=False)
    machine = lab.machine(viommu="intel-iommu", bypass=True)
    assert machine.refusal(lab.device("vhost-user-fs", backend)) == ""


@pytest.mark.parametrize("plug", ["cold", "hot"])
def test_transitional_device_is_refused_for_its_legacy_interface(lab: Lab, plug: str) -> None:
    """A legacy driver can't accept bit 33, whatever the back-end offers (no vIOMMU)."""
    backend = lab.backend("vhost-user-blk", access_platform=False)
    device = lab.device("vhost-user-blk", backend, disable_legacy="off")
    said = lab.cold_refusal(device) if plug == "cold" else lab.machine().refusal(device)
    assert (
        "its legacy interface can't accept VIRTIO_F_ACCESS_PLATFORM; use disable-legacy=on" in said
    )


def test_refusal_names_device_bus_reason_and_remedy(lab: Lab) -> None:
    backend = lab.backend("vhost-user-fs", access_platform=False)
    machine = lab.machine(viommu="intel-iommu")
    said = machine.refusal(lab.device("vhost-user-fs", backend))
    wanted = {
        "device type": "vhost-user-fs-pci",
        "device": "'dut'",
        "bus": "'port0'",
        "reason, the bus": "behind an IOMMU",
        "reason, the back-end": "VIRTIO_F_ACCESS_PLATFORM",
        "remedy": "iommu_platform=off",
        "the phrase people search for": REFUSAL_PHRASE,
    }
    assert [what for what, text in wanted.items() if text not in said] == []


@pytest.mark.parametrize("order", ORDERS)
def test_cold_refusal_comes_before_any_vcpu_runs(lab: Lab, tmp_path: Path, order: str) -> None:
    """SeaBIOS writes to its debug port as soon as it runs: here it must not."""
    spoken = tmp_path / "firmware.log"
    firmware = {"driver": "isa-debugcon", "iobase": 0x402, "chardev": "firmware"}
    device = lab.device("vhost-user-fs", lab.backend("vhost-user-fs", access_platform=False))
    extra = ["-chardev", f"file,id=firmware,path={spoken}"]
    said = lab.cold_refusal(
        firmware, device, viommu="intel-iommu", order=order, accel="tcg", extra=extra
    )
    assert REFUSAL_PHRASE in said
    assert spoken.read_bytes() == b""


def test_firmware_speaks_on_the_debug_port(lab: Lab) -> None:
    """The test above could fail: the same firmware does write there when a vCPU runs."""
    log = "socket,id=firmware,path=" + str(lab.folder / "firmware.sock")
    with lab.listening(lab.folder / "firmware.sock") as listener:
        firmware = {"driver": "isa-debugcon", "iobase": 0x402, "chardev": "firmware"}
        lab.machine(firmware, accel="tcg", extra=["-chardev", log])
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            assert b"SeaBIOS" in connection.makefile("rb").readline()


def test_cold_plugged_device_unplugs_and_plugs_again(lab: Lab) -> None:
    """Its check for a later vIOMMU goes with it."""
    backend = lab.backend("vhost-user-fs", access_platform=False)
    device = lab.device("vhost-user-fs", backend)
    machine = lab.machine(device)
    for _ in range(3):
        machine.qmp.execute("device_del", id="dut")
        machine.qmp.execute("system_reset")
        machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", 10)
        assert machine.refusal(device) == ""
