"""x-query-virtio-status: it answers for every device and shows ACCESS_PLATFORM."""

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import plain_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.negotiation import ACCESS_PLATFORM, VERSION_1
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_served, driven, virtio_status
from qap.verify.kit.lab import Lab
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern

RINGS = 32 * MIB
TOLD_S = 10.0
# A device type for each way in which QEMU's devices start a back-end.
SERVED = (
    "vhost-user-blk",
    "vhost-user-fs",
    "vhost-user-rng",
    "vhost-user-scsi",
    "vhost-user-vsock",
)
NOT_SHOWN = ("vhost-user-rng", "vhost-user-i2c", "vhost-user-gpio", "vhost-user-snd")


def drive(machine: Machine, behaviour: Behaviour | None = None) -> Driver:
    """A driver of the only virtio device that goes on to DRIVER_OK with queue 0."""
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    driver = Driver(transport, GuestMemory(machine.qtest, RINGS, 8 * MIB), behaviour)
    reached = driver.negotiate()
    driver.queue(0)
    transport.set_status(reached | Status.DRIVER_OK)
    return driver


@pytest.mark.parametrize("kind", plain_types())
def test_query_answers_for_every_device(lab: Lab, kind: str) -> None:
    backend = lab.backend(kind, access_platform=True)
    machine = lab.machine(qtest=True)
    assert machine.refusal(lab.device(kind, backend)) == ""
    assert virtio_status(machine)["vhost-started"] is False


def test_query_answers_for_a_device_whose_features_have_no_names(lab: Lab) -> None:
    backend = lab.backend("vhost-user-i2c", access_platform=True)
    machine = lab.machine(qtest=True)
    assert machine.refusal(lab.device("vhost-user-i2c", backend)) == ""
    assert virtio_status(machine)["device-id"] == 34


@pytest.mark.parametrize("kind", NOT_SHOWN)
def test_query_answers_while_the_back_end_serves(lab: Lab, kind: str) -> None:
    """The queries for its queues answer, too, with their state or an error in one line."""
    backend = lab.backend(kind, access_platform=True)
    machine = lab.machine(qtest=True)
    assert machine.refusal(lab.device(kind, backend)) == ""
    drive(machine)
    backend.wait_for(FrontendRequest.SET_VRING_ADDR, TOLD_S)
    assert virtio_status(machine)["vhost-started"] is True
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    queue = machine.qmp.execute("x-query-virtio-queue-status", path=path, queue=0)
    assert queue["vring-desc"] >= RINGS


@pytest.mark.parametrize("kind", SERVED)
def test_query_of_a_queue_does_not_stop_it(lab: Lab, kind: str) -> None:
    """Nor does it show an index that a back-end can't be asked for."""
    backend = lab.backend(kind, access_platform=True)
    machine = lab.machine(qtest=True)
    assert machine.refusal(lab.device(kind, backend)) == ""
    driver, queue = driven(machine)
    assert_served(driver, queue)
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    shown = machine.qmp.execute("x-query-virtio-queue-status", path=path, queue=0)
    assert_served(driver, queue)
    assert "last-avail-idx" not in shown


@pytest.mark.parametrize("viommu", ["none", "intel-iommu"])
@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("kind", ["vhost-user-fs", "vhost-user-rng"])
def test_status_follows_access_platform_to_the_back_end(
    lab: Lab, kind: str, requested: bool, viommu: str
) -> None:
    """Its field `backend` is what the back-end has recorded."""
    backend = lab.backend(kind, access_platform=True)
    machine = lab.machine(qtest=True, viommu=viommu)
    device = {**lab.device(kind, backend), "iommu_platform": requested}
    assert machine.refusal(device) == ""
    access_platform = virtio_status(machine)["access-platform"]
    assert "backend" not in access_platform
    assert access_platform == {
        "requested": requested,
        "translated": viommu != "none",
        "required": requested,
        "offered": requested,
        "accepted": False,
    }
    driver = drive(machine)
    backend.wait_for(FrontendRequest.SET_VRING_ADDR, TOLD_S)
    access_platform = virtio_status(machine)["access-platform"]
    assert access_platform["offered"] is bool(driver.offered & ACCESS_PLATFORM)
    assert access_platform["accepted"] is bool(driver.accepted & ACCESS_PLATFORM)
    assert backend.acked_features is not None
    assert access_platform["backend"] is bool(backend.acked_features & ACCESS_PLATFORM)
    assert access_platform["backend"] is (requested and viommu != "none")


def test_status_tells_offered_from_requested(lab: Lab) -> None:
    """A device that offers what its back-end offers, as machine types up to 9.2 do."""
    backend = lab.backend("vhost-user-rng", access_platform=True)
    machine = lab.machine(qtest=True)
    properties = {"iommu_platform": False, "x-iommu-platform-on-request": False}
    assert machine.refusal({**lab.device("vhost-user-rng", backend), **properties}) == ""
    access_platform = virtio_status(machine)["access-platform"]
    assert (access_platform["requested"], access_platform["offered"]) == (False, True)


@pytest.mark.parametrize("required", [False, True])
def test_status_of_a_driver_that_did_not_accept(lab: Lab, required: bool) -> None:
    backend = lab.backend("vhost-user-fs", access_platform=True)
    machine = lab.machine(qtest=True)
    device = {**lab.device("vhost-user-fs", backend), "x-require-iommu-platform": required}
    assert machine.refusal(device) == ""
    drive(machine, Behaviour(VERSION_1, obeys=False))
    answer = virtio_status(machine)
    assert answer["access-platform"]["required"] is required
    assert answer["access-platform"]["accepted"] is False
    assert answer["broken"] is False


def test_monitor_shows_it_in_a_line(lab: Lab) -> None:
    backend = lab.backend("vhost-user-fs", access_platform=True)
    machine = lab.machine(qtest=True)
    assert machine.refusal(lab.device("vhost-user-fs", backend)) == ""
    drive(machine)
    (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    shown = machine.qmp.hmp(f"info virtio-status {path}").splitlines()
    (line,) = [line for line in shown if "access_platform" in line]
    assert line.split(":")[1].split() == ["requested", "required", "offered", "accepted"]
