"""A driver without VERSION_1 that notifies before DRIVER_OK starts a vhost-user device, once."""

import pytest

from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.spec import Spec
from qap.verify.kit.checks import assert_served
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.split import split_areas
from qap.virtio.transports import TRANSPORTS

# These start on a notification.
KINDS = ("vhost-user-blk", "vhost-user-scsi")
# Their legacy interfaces, and others, where a driver need not accept VERSION_1 either.
PLACES = ("pci legacy", "mmio 1", "pci modern", "mmio 2")
# Neither RAM nor a device is there.
NOWHERE = 0x4_0000_0000
TOLD_S = 10.0
ANSWER_S = 10.0
RECONNECT_MS = 50
QUEUES = {"vhost-user-blk": 2, "vhost-user-scsi": 3}
QUEUES_PROPERTY = {"vhost-user-blk": {"num-queues": 2}, "vhost-user-scsi": {}}


@pytest.fixture(params=[(kind, name) for kind in KINDS for name in PLACES], ids=" ".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A device type and its interface."""
    kind, name = request.param
    return kind, name


def negotiated(lab: Lab, kind: str, name: str) -> tuple[Backend, Driver]:
    """A driver without VERSION_1 that has neither set up a queue nor DRIVER_OK."""
    backend = lab.backend(kind)
    way = TRANSPORTS[name]
    driver_name = vhost_user_types()[kind].driver("mmio" if way.suffix == "device" else "pci")
    device = {"driver": driver_name, "chardev": "vhost", **QUEUES_PROPERTY[kind]}
    spec = Spec(
        way.machine,
        accel=way.accel,
        memory=128,
        chardevs=[f"socket,id=vhost,path={backend.path},reconnect-ms={RECONNECT_MS}"],
        devices=[{**device, **way.properties}],
        extra=way.extra,
        qtest=True,
    )
    machine = lab.start(way.emulator, spec)
    machine.qmp.timeout = machine.qtest.timeout = ANSWER_S
    transport = way.connect(machine)
    behaviour = Behaviour(supports=0, sets_features_ok=not transport.legacy, obeys=False)
    driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
    driver.negotiate()
    return backend, driver


def starts(backend: Backend) -> int:
    """How often QEMU went about to start queue 0."""
    told = backend.requests(FrontendRequest.SET_VRING_NUM)
    return sum(not message.words[0] for message in told)


def test_start_that_fails_is_not_tried_again_by_itself(lab: Lab, place: tuple[str, str]) -> None:
    """The ring is nowhere. After a reset, and once its back-end is back, the device serves."""
    backend, driver = negotiated(lab, *place)
    transport = driver.transport
    nowhere = GuestMemory(transport.qtest, NOWHERE, MIB)
    areas = split_areas(nowhere, transport.queue_max(0), legacy=transport.legacy)
    transport.enable_queue(0, areas)
    transport.notify(0)
    backend.wait_for(FrontendRequest.SET_VRING_NUM, TOLD_S)
    transport.qtest.endianness()
    assert starts(backend) == 1
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    assert_served(driver, queue)


def test_device_starts_once_if_all_its_queues_are_notified(
    lab: Lab, place: tuple[str, str]
) -> None:
    """The second notification waits while the first one is handled."""
    backend, driver = negotiated(lab, *place)
    transport = driver.transport
    queue, *_ = [driver.queue(index) for index in range(QUEUES[place[0]])]
    with transport.qtest.at_once():
        for index in range(QUEUES[place[0]]):
            transport.notify(index)
    backend.wait_for(FrontendRequest.SET_VRING_KICK, TOLD_S)
    driver.start()
    assert starts(backend) == 1
    assert_served(driver, queue)
