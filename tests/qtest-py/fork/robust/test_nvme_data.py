"""Commands of an NVMe controller whose end was not told release their data's memory all the same.

A command refers to the controller until then: one that is left over keeps it from being freed.
"""

from collections.abc import Callable, Sequence

import pytest

from qap.host.wait import poll_until
from qap.hw import nvme
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.checks import reset_machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.slot import DUT, NATIVE, PORT, power_off, wait_gone
from qap.verify.kit.slow_disk import null_disk, operations, throttle_group, throttled

BLOCKS = nvme.PAGE // nvme.BLOCK
LEFT = 2
DISK_S = 20.0
NO_RAM = 1 << 40
COUNTED = {nvme.READ: "rd", nvme.WRITE: "wr"}

Guest = tuple[Machine, nvme.Nvme, nvme.NvmeQueue]


# What comes before the power goes.
ABRUPT: dict[str, Callable[[Guest], object]] = {
    "unplug": lambda guest: None,
    "controller-reset": lambda guest: guest[1].start(),
    "system-reset": lambda guest: reset_machine(guest[0]),
}
# A queue that is deleted tells the end of what was in the disk, if there is room.
ENDS = {**ABRUPT, "deletion": lambda guest: guest[1].delete_submissions(guest[2])}


def started(lab: Lab, *disks: str, extra: Sequence[str] = ()) -> Guest:
    devices: list[Device] = [
        {"driver": "nvme", "id": DUT, "serial": "1", "bus": PORT},
        {"driver": "nvme-ns", "id": "namespace", "drive": "disk0"},
    ]
    machine = lab.machine(*devices, blockdevs=disks, extra=(*NATIVE, *extra), qtest=True)
    function = PciBus(machine.qtest).find(nvme.VENDOR_ID, nvme.DEVICE_ID)
    controller = nvme.Nvme(function, GuestMemory(machine.qtest, 16 * MIB, 4 * MIB))
    controller.start()
    return machine, controller, controller.add_queue(2)


def begin(guest: Guest, opcode: int, times: int, place: int) -> None:
    _, controller, queue = guest
    for _ in range(times):
        controller.begin(queue, opcode, (place, 0), 0, 0, BLOCKS - 1, namespace=1)


def page(guest: Guest) -> int:
    _, controller, _ = guest
    return controller.memory.take(nvme.PAGE, nvme.PAGE)


def wait_done(guest: Guest, opcode: int, times: int) -> None:
    """Wait until the disk has done so many."""
    machine, *_ = guest
    poll_until(
        lambda: operations(machine, COUNTED[opcode]) == times or None,
        DISK_S,
        lambda: f"the disk to do {times} operations",
    )


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_completion_queue_is_full(lab: Lab, end: Callable[[Guest], object]) -> None:
    """The driver takes no completion, and submits more."""
    guest = started(lab, null_disk())
    place = page(guest)
    begin(guest, nvme.READ, nvme.ENTRIES - 1, place)
    wait_done(guest, nvme.READ, nvme.ENTRIES - 1)
    begin(guest, nvme.READ, LEFT, place)
    wait_done(guest, nvme.READ, nvme.ENTRIES - 1 + LEFT)
    end(guest)
    power_off(guest[0])
    wait_gone(guest[0])


@pytest.mark.parametrize("end", ABRUPT.values(), ids=ABRUPT)
@pytest.mark.parametrize("is_ram", [True, False], ids=["ram", "bounced"])
def test_command_in_the_disk(lab: Lab, end: Callable[[Guest], object], is_ram: bool) -> None:
    """One that has no RAM has bounce buffers; the other one of them waits for it."""
    disks = null_disk("null0"), throttled("null0")
    guest = started(lab, *disks, extra=throttle_group())
    begin(guest, nvme.READ, LEFT, page(guest) if is_ram else NO_RAM)
    end(guest)
    power_off(guest[0])
    wait_gone(guest[0])


@pytest.mark.parametrize("opcode", COUNTED, ids=["read", "write"])
def test_completion_that_can_not_be_written(lab: Lab, opcode: int) -> None:
    """The controller has failed, until it is reset (NVMe 9.5)."""
    machine, controller, _ = started(lab, null_disk())
    nowhere = controller.add_queue(3, completions=NO_RAM)
    guest = machine, controller, nowhere
    begin(guest, opcode, LEFT, page(guest))
    controller.wait_failed()
    controller.start()
    power_off(machine)
    wait_gone(machine)
