"""Plugging with iommu_platform=on on s390x: CCW never translates, PCI always does."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.oracle.fence import REFUSAL_PHRASE
from qap.vhost_user.backends import backend

FS: Device = {"id": "dut", "chardev": "backend", "tag": "share", "iommu_platform": True}


@pytest.fixture
def machine() -> Iterator[Machine]:
    """An s390-ccw-virtio with a virtiofs back-end that does not translate."""
    with ExitStack() as owned:
        folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-"))
        path = Path(folder) / "backend.sock"
        owned.enter_context(backend(path, "vhost-user-fs", access_platform=False))
        spec = Spec(
            machine="s390-ccw-virtio",
            accel="qtest",
            memory=128,
            chardevs=[f"socket,id=backend,path={path}"],
        )
        binary = Build.under_test().path("qemu-system-s390x")
        yield owned.enter_context(Machine(binary, spec))


def test_ccw_device_plugs(machine: Machine) -> None:
    assert machine.refusal({"driver": "vhost-user-fs-ccw", **FS}) == ""


def test_pci_device_is_refused(machine: Machine) -> None:
    """The VM goes on, and the CCW device can be plugged instead."""
    assert REFUSAL_PHRASE in machine.refusal({"driver": "vhost-user-fs-pci", **FS})
    assert machine.alive
    assert machine.refusal({"driver": "vhost-user-fs-ccw", **FS}) == ""
