"""A vhost-user device that is unplugged while its driver uses it leaves nothing behind."""

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.verify.kit.checks import assert_lives, unplug_at_reset
from qap.verify.kit.lab import Lab
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import PciModern

STARTED_S = 10.0
VIOMMUS = ("intel-iommu", "virtio-iommu", "amd-iommu")
HOTPLUGS = [kind for kind, row in vhost_user_types().items() if not row.hotplug]


def unplug_while_running(lab: Lab, kind: str, viommu: str) -> None:
    """Start it, unplug it, and let a reset of the machine stand for the guest's consent."""
    backend = lab.backend(kind, access_platform=True)
    device, words = vhost_user_types()[kind].pci(backend.path.stem)
    machine = lab.machine(viommu=viommu, extra=words, qtest=True)
    before = {function.bdf for function in PciBus(machine.qtest).scan()}
    machine.plug({**device, "id": "dut", "bus": "port0", "iommu_platform": True})
    functions = PciBus(machine.qtest).scan()
    (function,) = [function for function in functions if function.bdf not in before]
    driver = Driver(PciModern(function), GuestMemory(machine.qtest, 16 * MIB, 8 * MIB))
    driver.negotiate()
    driver.queue(0)
    driver.start()
    backend.wait_for(FrontendRequest.SET_VRING_KICK, STARTED_S)
    unplug_at_reset(machine)
    assert_lives(machine)


@pytest.mark.parametrize("viommu", VIOMMUS)
def test_crypto_device_is_unplugged(lab: Lab, viommu: str) -> None:
    unplug_while_running(lab, "vhost-user-crypto", viommu)


@pytest.mark.parametrize("viommu", ["none", "intel-iommu"])
@pytest.mark.parametrize("kind", HOTPLUGS)
def test_device_is_unplugged(lab: Lab, kind: str, viommu: str) -> None:
    unplug_while_running(lab, kind, viommu)
