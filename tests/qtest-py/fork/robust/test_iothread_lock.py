"""A device in an iothread stops while its ring can't be reached any more."""

import pytest

from qap.hw.pci import COMMAND, COMMAND_BUS_MASTER
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import viommus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, PciModern
from qap.virtio.queue import Buffer

DISK = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
# It looks at the ring all the time.
IOTHREAD = ("-object", "iothread,id=io0,poll-max-ns=1000000000")
DEVICES: dict[str, Device] = {
    "virtio-blk": {"driver": "virtio-blk-pci", "drive": "disk0"},
    "virtio-scsi": {"driver": "virtio-scsi-pci"},
}
QUEUES = {"virtio-blk": 0, "virtio-scsi": 2}
IDS = {"virtio-blk": MODERN_DEVICE_ID + 2, "virtio-scsi": MODERN_DEVICE_ID + 8}
ROUNDS = 30
ANSWER_S = 5.0


@pytest.mark.parametrize("viommu", ["intel-iommu", "virtio-iommu"])
@pytest.mark.parametrize("kind", DEVICES)
def test_device_that_loses_its_ring_stops(lab: Lab, kind: str, viommu: str) -> None:
    """Its bus mastering is switched off while it polls; behind an IOMMU it has no pointer to it."""
    device = {**DEVICES[kind], "id": "dut", "iothread": "io0", "iommu_platform": True}
    machine = lab.machine(
        dict(viommus()[viommu].device or {}),
        {**device, "bus": "port0", "disable-legacy": "on"},
        blockdevs=[DISK] if kind == "virtio-blk" else [],
        extra=IOTHREAD,
        qtest=True,
    )
    machine.qmp.timeout = machine.qtest.timeout = ANSWER_S
    functions = PciBus(machine.qtest).scan()
    (function,) = [function for function in functions if function.device_id == IDS[kind]]
    for _ in range(ROUNDS):
        transport = PciModern(function)
        driver = Driver(transport, GuestMemory(machine.qtest, 16 * MIB, 4 * MIB))
        driver.negotiate()
        *_, queue = [driver.queue(index) for index in range(QUEUES[kind] + 1)]
        driver.start()
        queue.add([Buffer(driver.memory.take(64), 64, writable=False)])
        transport.notify(queue.index)
        command = function.config_read(COMMAND, 2)
        function.config_write(COMMAND, 2, command & ~COMMAND_BUS_MASTER)
        assert machine.alive
        function.config_write(COMMAND, 2, command)
