"""A virtio-pmem takes every flush that waits (virtio 1.3, 5.19.6)."""

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.spec import Spec
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer

FLUSH, ANSWER = bytes(4), 4
REQUESTS = 3


def test_one_notification_is_for_all_requests(lab: Lab) -> None:
    row = device_types()["virtio-pmem"]
    card = {"driver": row.driver("pci"), **row.properties}
    spec = Spec("q35", "qtest", memory=128, devices=[card], extra=row.args, qtest=True)
    machine = lab.start("qemu-system-x86_64", spec)
    function = PciBus(machine.qtest).find(VENDOR_ID)
    driver = Driver(PciModern(function), GuestMemory(machine.qtest, 16 * MIB))
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    heads = set()
    for _ in range(REQUESTS):
        answer = Buffer(driver.memory.take(ANSWER), ANSWER, writable=True)
        heads.add(queue.add([Buffer(driver.memory.put(FLUSH), len(FLUSH)), answer]))
    driver.transport.notify(0)
    assert {queue.wait_used(5.0).id for _ in range(REQUESTS)} == heads
