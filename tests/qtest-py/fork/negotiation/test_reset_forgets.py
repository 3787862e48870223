"""What one driver wrote does not outlive a reset: the next one starts from nothing."""

from collections.abc import Callable

import pytest

from qap.machine.guest_memory import GuestMemory
from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK, accepted_features, reset_machine
from qap.verify.kit.lab import Lab
from qap.virtio import mmio, pci_modern
from qap.virtio.driver import Driver
from qap.virtio.mmio import Mmio
from qap.virtio.pci_modern import COMMON_CFG, PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.split import SplitQueue
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

HAVE_FEATURES_OK = ("pci modern", "mmio 2", "ccw 1", "ccw 2")
SELECT_FEATURES = ("pci modern", "mmio 2")
QUEUE_SIZE = 8
# Looks at a ring, each a turn of QEMU's main loop, until a buffer counts as unserved.
LOOKS = 64

Reset = Callable[[], Transport]


@pytest.fixture
def start(lab: Lab) -> Callable[[str], dict[str, Reset]]:
    """Starts an entropy device with iommu_platform=on; returns what resets it.

    A driver resets it by its status, or it is reset with the machine.
    """

    def started(name: str) -> dict[str, Reset]:
        variant = TRANSPORTS[name]
        machine = lab.start(variant.emulator, variant.spec("virtio-rng", iommu_platform=True))

        def by_status() -> Transport:
            transport = variant.connect(machine)
            transport.reset()
            return transport

        def with_machine() -> Transport:
            reset_machine(machine)
            return variant.connect(machine)

        return {"status": by_status, "system": with_machine}

    return started


def use(transport: Transport) -> Queue:
    """A well-behaved driver that is served once; returns its queue."""
    driver = Driver(transport, GuestMemory(transport.qtest))
    driver.negotiate()
    queue = driver.queue(0, QUEUE_SIZE)
    driver.start()
    driver.serve(queue, [Buffer(driver.memory.take(16), 16, writable=True)])
    return queue


@pytest.mark.parametrize("variant", HAVE_FEATURES_OK)
@pytest.mark.parametrize("kind", ["status", "system"])
def test_driver_that_writes_word_0_alone_accepts_no_more_than_that(
    start: Callable[[str], dict[str, Reset]], kind: str, variant: str
) -> None:
    """2.2, 2.4.1: it did not accept VERSION_1 and ACCESS_PLATFORM, though the one before it did."""
    resets = start(variant)
    use(resets["status"]())
    transport = resets[kind]()
    transport.set_driver_feature_word(0, 0)
    for status in UP_TO_FEATURES_OK:
        transport.set_status(status)
    assert Status.FEATURES_OK not in transport.status
    memory = GuestMemory(transport.qtest)
    queue = SplitQueue(memory, 0, QUEUE_SIZE)
    transport.enable_queue(0, queue.addresses)
    transport.set_status(UP_TO_FEATURES_OK[-1] | Status.DRIVER_OK)
    queue.add([Buffer(memory.take(16), 16, writable=True)])
    transport.notify(0)
    assert not any(queue.take_used() for _ in range(LOOKS))


@pytest.mark.parametrize("variant", SELECT_FEATURES)
def test_feature_selectors_start_at_word_0(
    start: Callable[[str], dict[str, Reset]], variant: str
) -> None:
    """4.1.4.3, 4.2.2: a driver that selects no word reads bits 0 to 31."""
    resets = start(variant)
    offered = resets["status"]().device_feature_word(0)
    shown = {}
    for kind, reset in resets.items():
        reset().device_feature_word(1)
        shown[kind] = selected_device_features(reset())
    assert shown == dict.fromkeys(resets, offered)


def test_queue_has_no_addresses_after_a_reset_on_mmio(
    start: Callable[[str], dict[str, Reset]],
) -> None:
    """2.4.1: a queue that a driver enables without addresses is not where the last one had it."""
    resets = start("mmio 2")
    served = {kind: serves_old_queue(resets["status"](), reset) for kind, reset in resets.items()}
    assert served == dict.fromkeys(resets, False)


def serves_old_queue(transport: Transport, reset: Reset) -> bool:
    """Whether a driver that enables queue 0 after a reset, and gives no address, is served."""
    old = use(transport).addresses
    transport = reset()
    assert isinstance(transport, Mmio)
    qtest, base = transport.qtest, transport.base
    used_idx = old.device + 2
    qtest.writew(used_idx, 0)
    driver = Driver(transport, GuestMemory(qtest))
    driver.negotiate()
    for register, value in (
        (mmio.QUEUE_SEL, 0),
        (mmio.QUEUE_SIZE, QUEUE_SIZE),
        (mmio.QUEUE_READY, 1),
    ):
        qtest.writel(base + register, value)
    driver.start()
    transport.notify(0)
    return any(qtest.readw(used_idx) for _ in range(LOOKS))


def selected_device_features(transport: Transport) -> int:
    """The feature word that the device shows to a driver that selects none."""
    if isinstance(transport, PciModern):
        register = transport.regions[COMMON_CFG].address + pci_modern.DEVICE_FEATURE
    else:
        assert isinstance(transport, Mmio)
        register = transport.base + mmio.DEVICE_FEATURES
    return transport.qtest.readl(register)


def negotiates_word(lab: Lab, variant: str, word: int) -> None:
    """Check that a feature word reads 0, and that what is written to it is no feature's."""
    chosen = TRANSPORTS[variant]
    machine = lab.start(chosen.emulator, chosen.spec("virtio-rng", iommu_platform=True))
    transport = chosen.connect(machine)
    transport.reset()
    assert transport.device_feature_word(word) == 0
    offered = transport.device_features
    for features, written in ((offered, 0), (0, offered >> 32)):
        transport.reset()
        transport.set_driver_features(features)
        transport.set_driver_feature_word(word, written)
        for status in UP_TO_FEATURES_OK:
            transport.set_status(status)
        assert ("VIRTIO_F_IOMMU_PLATFORM" in accepted_features(machine)) is bool(features)


@pytest.mark.parametrize("word", [2, 3, 4, 0xFFFF_FFFF])
def test_feature_words_past_the_second_are_not_one_of_them_on_mmio(lab: Lab, word: int) -> None:
    """2.2, 4.2.2: a virtio 1.4 driver writes four words; those past bit 63 are reserved."""
    negotiates_word(lab, "mmio 2", word)


@pytest.mark.parametrize("variant", ["pci modern", "ccw 1", "ccw 2"])
@pytest.mark.parametrize("word", [2, 3, 4, 0xFF])
def test_feature_words_past_the_second_are_not_one_of_them(
    lab: Lab, variant: str, word: int
) -> None:
    """2.2, 4.1.4.3, 4.3.2.2: the same on the other transports."""
    negotiates_word(lab, variant, word)
