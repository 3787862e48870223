"""qap repro of devices that no guest shows."""

import json

import pytest

from qap.fork.build import Build
from qap.machine.asked import asked
from qap.machine.recording import Recording
from qap.matrix.asked import asked_cell
from qap.matrix.run import alone
from qap.scenario.request import Request

ATS: dict[str, object] = {"ats": True, "viommu": "intel-iommu"}
ZPCI: dict[str, object] = {"machine": "s390-ccw-virtio"}


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"device": "vhost-user-gpio-pci", "plug": "replug"}, "works"),
        ({"device": "vhost-user-gpio-pci", "plug": "hot", "viommu": "intel-iommu"}, "refused"),
        ({"device": "vhost-user-scsi", "machine": "microvm"}, "works"),
        ({"device": "virtio-crypto-ccw", "machine": "s390-ccw-virtio"}, "works"),
        ({"device": "virtio-mouse-pci", "plug": "hot", "later": "moves-on"}, "works"),
        ({"device": "virtio-mouse-pci", "plug": "hot", "migrate": True}, "works"),
        ({"device": "vhost-user-gpio-pci", "plug": "hot", "kill_backend": "idle"}, "works"),
        ({"device": "vhost-user-vsock-pci", "plug": "hot", "kill_backend": "idle"}, "works"),
        ({"device": "vhost-user-scsi-pci", "behind": "pxb", "viommu": "amd-iommu"}, "refused"),
        ({"device": "vhost-user-scsi-pci", "behind": "pcie-pci-bridge"}, "works"),
        ({"device": "virtio-blk", "machine": "pc", "queues": 3, "iothread": True}, "works"),
        ({"device": "virtio-scsi-ccw", "machine": "s390-ccw-virtio", "queues": 4}, "works"),
        ({"device": "vhost-user-gpio-pci", "backend": "ACCESS_PLATFORM", **ATS}, "works"),
        ({"device": "virtio-blk-pci", "behind": "pxb", "queues": 2, **ATS}, "works"),
        ({"device": "vhost-user-i2c-pci", **ZPCI}, "refused"),
        ({"device": "vhost-user-i2c-pci", "iommu_platform": False, **ZPCI}, "works"),
        ({"device": "vhost-user-i2c-pci", "backend": "ACCESS_PLATFORM", **ZPCI}, "works"),
        ({"device": "virtio-blk-pci", "plug": "hot", "packed": True, **ZPCI}, "works"),
        ({"device": "virtio-scsi-pci", "plug": "replug", "queues": 4, **ZPCI}, "works"),
    ],
)
def test_device_is_driven_without_a_guest(options: dict[str, object], outcome: str) -> None:
    """Also where no plan of the matrix makes such a cell."""
    wanted = Request.model_validate({"machine": "q35", **options})
    cell = asked_cell(*asked(wanted.machine, wanted.device), wanted)
    report = alone(cell, Build.under_test(), "a test")
    (result,) = report.results
    assert report.ok, result
    assert result["seen"]["outcome"] == outcome


def test_recording_has_what_was_said() -> None:
    """Commands with their answers, events, and QEMU's trace events."""
    wanted = Request(machine="q35", device="vhost-user-gpio-pci", plug="replug")
    cell = asked_cell(*asked(wanted.machine, wanted.device), wanted)
    recording = Recording()
    alone(cell, Build.under_test(), recording=recording)
    said = [json.loads(line) for line in recording.qmp]
    commands = [message.get("execute") for message in said]
    added = said[commands.index("device_add") :]
    assert added[0]["arguments"]["driver"] == "vhost-user-gpio-pci"
    assert added[1] == {"return": {}}
    deleted = [one["data"] for one in said if one.get("event") == "DEVICE_DELETED"]
    assert any(data.get("device") == "dut" for data in deleted)
    assert any(line.startswith("vhost_user_write ") for line in recording.traces)


def test_driver_uses_as_many_queues_as_asked_for() -> None:
    """And offers its buffer in the last one."""
    wanted = Request(machine="q35", device="virtio-blk-pci", queues=3, behind="root-bus")
    cell = asked_cell(*asked(wanted.machine, wanted.device), wanted)
    probe = cell.config.device_row.probe
    assert probe is not None
    assert (probe.queue, probe.others) == (2, (0, 1))
    report = alone(cell, Build.under_test())
    (result,) = report.results
    assert report.ok, result
    assert "num-queues=3" in result["qemu"][0]
    assert "bus=pcie.0" in result["qemu"][0]
