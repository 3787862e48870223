"""What a bundle of qap repro has of a device that the kernel serves."""

import json

from qap.fork.build import Build
from qap.machine.asked import asked
from qap.machine.recording import Recording
from qap.matrix.asked import asked_cell
from qap.matrix.run import alone
from qap.scenario.request import Request


def test_recording_has_the_lab_s_qemu_and_kernel() -> None:
    """Its monitor, its trace events, and the log of the kernel that serves."""
    wanted = Request(machine="q35", device="vhost-vsock-pci", plug="hot")
    recording = Recording()
    cell = asked_cell(*asked(wanted.machine, wanted.device), wanted)
    alone(cell, Build.under_test(), recording=recording)
    said = [json.loads(line) for line in recording.qmp]
    assert "device_add" in [message.get("execute") for message in said]
    assert any(message.get("event") == "DEVICE_DELETED" for message in said)
    assert any(line.startswith("virtio_set_status ") for line in recording.traces)
    assert any("Linux version" in line for line in recording.console)
