"""A buffer that is not in RAM is unmapped like any other, also if its chain is bad."""

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import viommus
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import assert_lives, unplug_at_reset
from qap.verify.kit.lab import Lab
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, PciModern
from qap.virtio.raw import RawQueue
from qap.virtio.split import DESC_F_NEXT, DESC_F_WRITE

# The first I/O APIC's registers: no RAM, and reading them changes nothing.
IO_APIC = 0xFEC0_0000
SIZE = 8
RNG_ID = MODERN_DEVICE_ID + 4


def start(machine: Machine, *, packed: bool) -> tuple[Driver, RawQueue]:
    """Reset the device and drive it up to DRIVER_OK."""
    extra = mask([FeatureBit.RING_PACKED]) if packed else 0
    functions = PciBus(machine.qtest).scan()
    (function,) = [function for function in functions if function.device_id == RNG_ID]
    transport = PciModern(function)
    memory = GuestMemory(machine.qtest, 16 * MIB, 4 * MIB)
    driver = Driver(transport, memory, Behaviour(supports=MODERN | extra))
    driver.negotiate()
    queue = driver.raw_queue(0)
    driver.start()
    return driver, queue


def send_bad_chain(machine: Machine, *, packed: bool) -> None:
    """2.7.4.2: a buffer to write comes before one to read, which is not allowed."""
    driver, queue = start(machine, packed=packed)
    queue.put(0, IO_APIC, SIZE, DESC_F_WRITE | DESC_F_NEXT, 1)
    queue.put(1, driver.memory.take(SIZE), SIZE, 0, 0)
    queue.offer(*((0, 1) if packed else (0,)))
    driver.transport.notify(0)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("viommu", ["none", "intel-iommu", "virtio-iommu", "amd-iommu"])
def test_device_with_a_bad_chain_unplugs(lab: Lab, viommu: str, packed: bool) -> None:
    iommu = [dict(viommus()[viommu].device or {})] if viommu != "none" else []
    rng = {"driver": "virtio-rng-pci", "id": "dut", "bus": "port0"}
    properties = {"disable-legacy": "on", "iommu_platform": True, "packed": packed}
    machine = lab.machine(*iommu, qtest=True)
    machine.plug({**rng, **properties})
    send_bad_chain(machine, packed=packed)
    unplug_at_reset(machine)
    assert_lives(machine)
