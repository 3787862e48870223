"""A driver that sets DRIVER_OK again starts nothing a second time."""

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_lives, assert_served
from qap.verify.kit.lab import Lab
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern

DONE = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
# What a driver may write once it has started.
AGAIN = (DONE, DONE & ~Status.FEATURES_OK, DONE | Status.FAILED, DONE)
STARTED_S = 10.0
ANSWER_S = 5.0


def start_often(lab: Lab, kind: str) -> None:
    backend = lab.backend(kind, access_platform=True)
    device, words = vhost_user_types()[kind].pci(backend.path.stem)
    machine = lab.machine({**device, "bus": "pcie.0", "id": "dut"}, extra=words, qtest=True)
    machine.qmp.timeout = machine.qtest.timeout = ANSWER_S
    driver = Driver(PciModern(PciBus(machine.qtest).find(VENDOR_ID)), GuestMemory(machine.qtest))
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    backend.wait_for(FrontendRequest.SET_VRING_KICK, STARTED_S)
    for status in AGAIN:
        driver.transport.set_status(status)
        assert_lives(machine)
    assert len(backend.requests(FrontendRequest.SET_VRING_KICK)) == 1
    assert_served(driver, queue)


@pytest.mark.parametrize("kind", ["vhost-user-gpu", "vhost-user-vga"])
def test_gpu_starts_once(lab: Lab, kind: str) -> None:
    """The socket for its display stays: a second one took the number of the first."""
    start_often(lab, kind)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vhost_user_types() if kind not in ("vhost-user-gpu", "vhost-user-vga")],
)
def test_device_starts_once(lab: Lab, kind: str) -> None:
    start_often(lab, kind)
