"""A driver that has been let through does not take ACCESS_PLATFORM back while it is served."""

from contextlib import suppress

import pytest

from qap.host.errors import QapError
from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.oracle.negotiation import ACCESS_PLATFORM, VERSION_1
from qap.verify.kit.checks import accepted_features, is_broken
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer
from qap.virtio.transports import TRANSPORTS

# They start their back-end at the first notification, before any DRIVER_OK.
START_ON_KICK = ("vhost-user-blk", "vhost-user-scsi")
SIZE = 16
# Looks at a ring, each a turn of QEMU's main loop, until a buffer counts as unserved.
LOOKS = 64


@pytest.mark.parametrize("started", [True, False], ids=["use-started", "no-use-started"])
@pytest.mark.parametrize("written", [0, VERSION_1], ids=["nothing", "version-1"])
@pytest.mark.parametrize("kind", START_ON_KICK)
def test_driver_that_started_a_back_end_by_a_kick_keeps_the_bit(
    lab: Lab, kind: str, written: int, started: bool
) -> None:
    """3.1.1 step 5: it accepted ACCESS_PLATFORM alone, was served, and then writes other features.

    If it is served after that, the device still has the bit.
    """
    backend = lab.backend(kind, access_platform=True)
    machine = lab.machine(qtest=True)
    # An option of old machine types, where the fence is off by default.
    device = lab.device(kind, backend, disable_legacy="on", use_started=started)
    machine.plug(device)
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    behaviour = Behaviour(supports=ACCESS_PLATFORM, sets_features_ok=False)
    driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
    driver.negotiate()
    queue = driver.queue(driver_queue(kind))

    def is_served() -> bool:
        queue.add([Buffer(driver.memory.take(SIZE), SIZE, writable=True)])
        transport.notify(queue.index)
        with suppress(QapError):
            backend.settle()
        return any(queue.take_used() for _ in range(LOOKS))

    assert is_served()
    transport.set_driver_features(written)
    assert "VIRTIO_F_IOMMU_PLATFORM" in accepted_features(machine) or not is_served()


def driver_queue(kind: str) -> int:
    """A queue of requests."""
    return 2 if kind == "vhost-user-scsi" else 0


@pytest.mark.parametrize("variant", ["pci modern", "mmio 2", "ccw 1", "ccw 2"])
def test_device_without_a_driver_is_not_broken(lab: Lab, variant: str) -> None:
    """2.1.2: only an error breaks a device, not that its driver has not accepted anything yet."""
    chosen = TRANSPORTS[variant]
    machine = lab.start(chosen.emulator, chosen.spec("virtio-rng", iommu_platform=True))
    transport = chosen.connect(machine)
    transport.reset()
    broken = [is_broken(machine)]
    for features in (VERSION_1, VERSION_1 | ACCESS_PLATFORM, ACCESS_PLATFORM, 0):
        transport.set_driver_features(features)
        broken.append(is_broken(machine))
    assert broken == [False] * 5
