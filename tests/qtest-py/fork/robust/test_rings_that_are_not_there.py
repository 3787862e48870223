"""A vhost queue whose ring can't be mapped, or that was set up after the start, is not stopped."""

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_served
from qap.verify.kit.lab import Lab
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import QueueAddresses

# Neither RAM nor a device is there.
NOWHERE = 0x4_0000_0000
TOLD_S = 10.0
SIZE = 16
MOST_QUEUES = 8
# These have several queues, and start each that has a ring.
START_ALL_QUEUES = (
    "vhost-user-fs",
    "vhost-user-gpio",
    "vhost-user-input",
    "vhost-user-snd",
    "vhost-user-scsi",
    "vhost-user-gpu",
    "vhost-user-vga",
)


def negotiated(lab: Lab, kind: str) -> Driver:
    """A driver that has not set up any queue."""
    backend = lab.backend(kind, access_platform=True)
    device, words = vhost_user_types()[kind].pci(backend.path.stem)
    machine = lab.machine({**device, "bus": "pcie.0", "id": "dut"}, extra=words, qtest=True)
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    driver = Driver(transport, GuestMemory(machine.qtest, 16 * MIB, 8 * MIB))
    driver.negotiate()
    return driver


def enable(driver: Driver, index: int, nowhere: str = "") -> None:
    """Enable a queue whose areas are all in RAM but the one that is named."""
    areas = {"desc": 16 * SIZE, "driver": 6 + 2 * SIZE, "device": 6 + 8 * SIZE}
    addresses = {name: driver.memory.take(size, 64) for name, size in areas.items()}
    if nowhere:
        addresses[nowhere] = NOWHERE
    driver.transport.enable_queue(index, QueueAddresses(SIZE, **addresses))


def starts_only_what_is_there(lab: Lab, kind: str) -> None:
    """Start with queue 0, enable the last one, and reset the device."""
    driver = negotiated(lab, kind)
    backend = lab.backends[-1]
    driver.queue(0)
    driver.start()
    backend.wait_for(FrontendRequest.SET_VRING_KICK, TOLD_S)
    last = max(index for index in range(MOST_QUEUES) if driver.transport.queue_max(index))
    if last:
        enable(driver, last)
    driver.transport.reset()
    kicks = backend.requests(FrontendRequest.SET_VRING_KICK)
    stopped = {message.words[0] for message in backend.requests(FrontendRequest.GET_VRING_BASE)}
    assert stopped == {message.words[0] & 0xFF for message in kicks}


@pytest.mark.parametrize("kind", START_ALL_QUEUES)
def test_queue_that_is_enabled_after_the_start_is_not_stopped(lab: Lab, kind: str) -> None:
    """3.1.1 step 7 comes before step 8; this driver has a second queue at step 9."""
    starts_only_what_is_there(lab, kind)


@pytest.mark.parametrize("kind", sorted(set(vhost_user_types()) - set(START_ALL_QUEUES)))
def test_queue_that_the_device_does_not_start_is_not_stopped(lab: Lab, kind: str) -> None:
    """The same for types with one queue, or that start only some."""
    starts_only_what_is_there(lab, kind)


@pytest.mark.parametrize("area", ["desc", "driver", "device"])
@pytest.mark.parametrize("kind", vhost_user_types())
def test_ring_that_is_nowhere_is_not_stopped(lab: Lab, kind: str, area: str) -> None:
    """The start fails; then the device starts anew with a ring that is there."""
    driver = negotiated(lab, kind)
    enable(driver, 0, area)
    driver.start()
    for status in (Status.ACKNOWLEDGE, Status(0)):
        driver.transport.set_status(status)
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    assert_served(driver, queue)
