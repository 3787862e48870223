"""A controller is reset, or a queue is deleted, with more commands in the ring than it can take.

Those that end make room. QEMU must not take what is left in the ring of a queue that ends.
"""

from qap.hw import nvme
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.slow_disk import null_disk, operations

NO_RAM = 1 << 40
# A command has two parts of half a second.
SLOW = null_disk(latency_s=0.5)
QUEUE = 2
PARTS = 2
BLOCKS = nvme.PAGE // nvme.BLOCK


def started(lab: Lab) -> tuple[Machine, nvme.Nvme]:
    devices: list[Device] = [
        {"driver": "nvme", "id": "nvme", "serial": "1"},
        {"driver": "nvme-ns", "id": "dut0", "drive": "disk0"},
    ]
    machine = lab.machine(*devices, blockdevs=[SLOW], qtest=True)
    function = PciBus(machine.qtest).find(nvme.VENDOR_ID, nvme.DEVICE_ID)
    controller = nvme.Nvme(function, GuestMemory(machine.qtest, 16 * MIB, 4 * MIB))
    controller.start()
    return machine, controller


def fill(controller: nvme.Nvme, queue: nvme.NvmeQueue) -> None:
    """What it takes waits for bounce buffers, but for one; as many again stay in the ring."""
    buffer = controller.memory.take(nvme.PAGE, nvme.PAGE)
    for place in [NO_RAM] * (nvme.ENTRIES - 1) + [buffer] * (nvme.ENTRIES - 1):
        controller.begin(queue, nvme.READ, (place, 0), 0, 0, BLOCKS - 1, namespace=1)


def hold(controller: nvme.Nvme, queue: nvme.NvmeQueue) -> None:
    """A command has the bounce buffers, and takes them again for its second part."""
    entries = NO_RAM, NO_RAM + nvme.PAGE
    controller.begin(queue, nvme.READ, entries, 0, 0, PARTS * BLOCKS - 1, namespace=1)


def assert_no_more(machine: Machine, controller: nvme.Nvme) -> None:
    """The disk has done what was in it, and no more."""
    ended = operations(machine, "rd")
    assert ended <= PARTS + 1
    controller.read(1, controller.memory.take(nvme.PAGE, nvme.PAGE), nvme.BLOCK)
    assert operations(machine, "rd") == ended + 1


def test_reset_takes_nothing_more(lab: Lab) -> None:
    """The queue that is full has ended before the other one makes it room."""
    machine, controller = started(lab)
    other = controller.add_queue(QUEUE)
    hold(controller, other)
    fill(controller, controller.io)
    controller.start()
    assert_no_more(machine, controller)


def test_deleted_queue_takes_nothing_more(lab: Lab) -> None:
    machine, controller = started(lab)
    queue = controller.add_queue(QUEUE)
    hold(controller, controller.io)
    fill(controller, queue)
    controller.delete_submissions(queue)
    controller.finish(controller.io, "the command that has the bounce buffers")
    assert_no_more(machine, controller)
