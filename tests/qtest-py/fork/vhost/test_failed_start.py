"""A device that fails to start: what its back-end is left with."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import pytest

from qap.host.errors import QapError
from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.iommu.find import find_iommu
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import mask
from qap.oracle.status import Status
from qap.verify.kit.checks import assert_lives, assert_served, driven
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import Misbehaviour, Nack
from qap.vhost_user.protocol import FrontendRequest, ProtocolFeature
from qap.vhost_user.standing import standing
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import PciModern

R = FrontendRequest
TABLES, RINGS, ELSEWHERE = 16 * MIB, 32 * MIB, 48 * MIB
UNMAPPED = 1 << 34
SLOT = 0x10
PAIRS = 2
# virtio 1.3, 5.1.3: what a driver of several queue pairs accepts.
NET_MQ, NET_CTRL_VQ = 22, 17
QUEUES = 8
# Where the last queue is QEMU's own: how many the back-end has.
SHARED = {"vhost-user-net": 2 * PAIRS, "vhost-user-crypto": 1, "vhost-user-vsock": 2}


@dataclass
class Bed:
    """A cold-plugged vhost-user device on a q35, with several queue pairs if it is a net.

    Attributes:
        queues: how many of its queues the back-end has.
        memory: that the device reaches.
        elsewhere: that it does not reach if there is a vIOMMU.
    """

    machine: Machine
    backend: Backend
    function: Function
    queues: int
    memory: GuestMemory
    elsewhere: GuestMemory

    def begin(self, unmapped: int | None = None) -> Driver:
        """Drive it to DRIVER_OK with every queue; the back-end's records start here.

        Args:
            unmapped: the queue whose rings are elsewhere; negative to count from the last.
        """
        self.backend.forget()
        behaviour = Behaviour(supports=MODERN | mask([NET_MQ, NET_CTRL_VQ]))
        driver = Driver(PciModern(self.function), self.memory, behaviour)
        driver.negotiate()
        queues = [index for index in range(QUEUES) if driver.transport.queue_max(index)]
        for index in queues:
            lost = unmapped is not None and index == unmapped % len(queues[: self.queues])
            driver.memory = self.elsewhere if lost else self.memory
            driver.queue(index)
        driver.start()
        return driver

    def settle(self) -> None:
        """Wait until the back-end has handled everything; a storage device has hung up."""
        with suppress(QapError):
            self.backend.settle()


@pytest.fixture
def bed(lab: Lab) -> Callable[..., Bed]:
    def plugged(kind: str, viommu: str, *rules: Misbehaviour) -> Bed:
        backend = lab.backend(kind, access_platform=True)
        backend.protocol_features |= mask([ProtocolFeature.STATUS])
        device, words = vhost_user_types()[kind].pci(backend.path.stem)
        if kind == "vhost-user-net":
            backend.features |= mask([NET_MQ])
            device = {**device, "mq": True}
            words[-1] += f",queues={PAIRS}"
        if vhost_user_types()[kind].legacy:
            device = {**device, "disable-legacy": "on"}
        device = {**device, "bus": "pcie.0", "addr": hex(SLOT), "iommu_platform": True}
        machine = lab.machine(device, viommu=viommu, extra=words, qtest=True)
        bus = PciBus(machine.qtest)
        (function,) = [found for found in bus.scan() if found.bdf.device == SLOT]
        memory = GuestMemory(machine.qtest, RINGS, 8 * MIB)
        elsewhere = GuestMemory(machine.qtest, ELSEWHERE, MIB)
        if viommu != "none":
            iommu = find_iommu(bus, GuestMemory(machine.qtest, TABLES, 4 * MIB))
            iommu.attach(function.bdf)
            iommu.map_memory(function.bdf, memory)
            iommu.enable()
            elsewhere = GuestMemory(machine.qtest, ELSEWHERE, MIB, iova=UNMAPPED)
        backend.misbehaviour = rules
        shared = SHARED.get(kind, QUEUES)
        return Bed(machine, backend, function, shared, memory, elsewhere)

    return plugged


@pytest.mark.parametrize("unmapped", [0, -1])
@pytest.mark.parametrize("kind", vhost_user_types())
def test_unmapped_ring_leaves_nothing(bed: Callable[..., Bed], kind: str, unmapped: int) -> None:
    """The used ring of one queue is not mapped: no queue is left running or enabled."""
    here = bed(kind, "intel-iommu")
    here.begin(unmapped)
    here.settle()
    assert here.backend.requests(R.SET_VRING_KICK)
    assert standing(here.backend.received) == {}
    assert not here.backend.status & Status.DRIVER_OK
    assert_lives(here.machine)


def enables_what_it_serves(
    here: Bed, unused: Collection[int] = (), stay: Collection[int] = ()
) -> None:
    """Protocol features are negotiated, so rings are disabled at first, and after a stop again.

    Args:
        unused: queues that are started and not enabled.
        stay: queues that stay enabled when they are stopped.
    """
    driver = here.begin()
    here.settle()
    left = standing(here.backend.received)
    started = {queue for queue, ring in left.items() if "kick" in ring}
    assert {queue for queue, ring in left.items() if "enabled" in ring} == started - {*unused}
    assert started
    driver.transport.reset()
    here.settle()
    assert standing(here.backend.received) == {queue: {"enabled"} for queue in stay}


def test_crypto_rings_are_enabled_while_they_are_served(bed: Callable[..., Bed]) -> None:
    enables_what_it_serves(bed("vhost-user-crypto", "none"))


@pytest.mark.parametrize("kind", sorted({*vhost_user_types()} - {"vhost-user-crypto"}))
def test_rings_are_enabled_while_they_are_served(bed: Callable[..., Bed], kind: str) -> None:
    """A network device has one queue pair until its driver asks for more, and it stays enabled."""
    first, second = ((0, 1), (2, 3)) if kind == "vhost-user-net" else ((), ())
    enables_what_it_serves(bed(kind, "none"), unused=second, stay=first)


def test_crypto_back_end_serves_once_its_rings_are_enabled(lab: Lab) -> None:
    behind = lab.backend("vhost-user-crypto")
    device, words = vhost_user_types()["vhost-user-crypto"].pci(behind.path.stem)
    machine = lab.machine({**device, "bus": "port0"}, extra=words, qtest=True)
    driver, queue = driven(machine)
    assert_served(driver, queue)


@pytest.mark.parametrize("kind", vhost_user_types())
def test_ring_that_is_not_enabled_leaves_nothing(bed: Callable[..., Bed], kind: str) -> None:
    """The back-end fails at SET_VRING_ENABLE: no queue is left running or enabled."""
    here = bed(kind, "none", Nack(R.SET_VRING_ENABLE))
    here.begin()
    here.settle()
    assert here.backend.requests(R.SET_VRING_ENABLE)
    assert standing(here.backend.received) == {}
    assert not here.backend.status & Status.DRIVER_OK
    assert_lives(here.machine)
