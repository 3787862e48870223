"""qap repro of devices that no guest shows."""

import json

import pytest

from qap.fork.build import Build
from qap.machine.asked import asked
from qap.machine.recording import Recording
from qap.matrix.asked import asked_cell
from qap.matrix.run import alone
from qap.scenario.request import Request


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"device": "vhost-user-gpio-pci", "plug": "replug"}, "works"),
        ({"device": "vhost-user-gpio-pci", "plug": "hot", "viommu": "intel-iommu"}, "refused"),
        ({"device": "vhost-user-scsi", "machine": "microvm"}, "works"),
        ({"device": "virtio-crypto-ccw", "machine": "s390-ccw-virtio"}, "works"),
        ({"device": "virtio-mouse-pci", "plug": "hot", "later": "moves-on"}, "works"),
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
