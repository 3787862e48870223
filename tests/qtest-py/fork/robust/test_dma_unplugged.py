"""An AHCI leaves its slot with commands under way: they end first.

A guest takes the power from the slot (PCIe 6.7.1.5), and then has its memory back.
"""

from pathlib import Path

import pytest

from qap.hw.ahci import (
    DEVICE_ID,
    READ_DMA,
    READ_PIO,
    READ_QUEUED,
    VENDOR_ID,
    WRITE_DMA,
    WRITE_PIO,
    WRITE_QUEUED,
    AhciPort,
    AtaCommand,
    Region,
)
from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.held_disk import NUMBERED, SECTOR
from qap.verify.kit.lab import Lab
from qap.verify.kit.slot import DUT, NATIVE, PORT, power_off, powered_slot, wait_gone
from qap.verify.kit.slow_disk import null_disk, throttle_group, throttled

# What is asked of such a disk waits for minutes, or until QEMU wants it to end.
SLOW = [word for number in range(2) for word in throttle_group(name=f"slow{number}")]
NO_RAM = 1 << 40
BOUNCE = 4096
# Each of three parts takes longer than the driver needs to switch off a slot that it has found.
PARTS = null_disk(latency_s=1.0)
# The driver has its memory back.
MINE, MINE_AGAIN = b"\xaa", b"\x55"

AHCI: Device = {"driver": "ich9-ahci", "id": DUT, "bus": PORT}
MOVES = {
    "read": READ_DMA,
    "write": WRITE_DMA,
    "read-queued": READ_QUEUED,
    "write-queued": WRITE_QUEUED,
}
DMA = pytest.mark.parametrize("command", MOVES.values(), ids=MOVES)


def slow_disk(folder: Path, number: int) -> list[str]:
    image = folder / f"disk{number}.img"
    image.write_bytes(NUMBERED)
    file = f"driver=file,node-name=file{number},filename={image}"
    return [file, throttled(f"file{number}", f"disk{number}", f"slow{number}")]


def hard_disk(number: int) -> Device:
    return {"driver": "ide-hd", "bus": f"dut.{number}", "drive": f"disk{number}"}


def started(lab: Lab, disks: list[str], *drives: Device) -> tuple[Machine, list[AhciPort]]:
    """A machine with an AHCI in a slot, and the ports that have disks."""
    machine = lab.machine(AHCI, *drives, blockdevs=disks, extra=(*NATIVE, *SLOW), qtest=True)
    memory = GuestMemory(machine.qtest, 16 * MIB, 4 * MIB)
    function = in_slot(machine)
    ports = [AhciPort(function, memory, number) for number in range(len(drives))]
    for port in ports:
        port.start()
    return machine, ports


def in_slot(machine: Machine) -> Function:
    """The only AHCI that is not on the root bus."""
    (function,) = [
        function
        for function in PciBus(machine.qtest).scan()
        if (function.vendor_id, function.device_id) == (VENDOR_ID, DEVICE_ID) and function.bdf.bus
    ]
    return function


@pytest.mark.parametrize("holder", [0, 1])
@DMA
def test_request_that_waits_for_memory(
    lab: Lab, tmp_path: Path, command: AtaCommand, holder: int
) -> None:
    """The disk of another port has the bounce buffers; the ports end one after the other."""
    disks = [*slow_disk(tmp_path, 0), *slow_disk(tmp_path, 1)]
    machine, ports = started(lab, disks, hard_disk(0), hard_disk(1))
    ports[holder].issue(READ_DMA, 1, [Region(NO_RAM, BOUNCE)])
    ports[1 - holder].issue(command, 1, [Region(NO_RAM, BOUNCE)])
    power_off(machine)
    wait_gone(machine)


@DMA
def test_command_in_the_disk(lab: Lab, tmp_path: Path, command: AtaCommand) -> None:
    machine, (port,) = started(lab, slow_disk(tmp_path, 0), hard_disk(0))
    buffer = port.memory.put(MINE * SECTOR)
    port.issue(command, 1, [Region(buffer, SECTOR)])
    power_off(machine)
    port.memory.write(buffer, MINE_AGAIN * SECTOR)
    wait_gone(machine)
    assert port.memory.read(buffer, SECTOR) == MINE_AGAIN * SECTOR
    if command.write:
        seen = (tmp_path / "disk0.img").read_bytes()
        assert seen[SECTOR : 2 * SECTOR] == MINE * SECTOR


@pytest.mark.parametrize("command", [READ_PIO, WRITE_PIO], ids=["read", "write"])
def test_command_by_pio(lab: Lab, command: AtaCommand) -> None:
    """Each sector of PIO is a request of its own."""
    machine, (port,) = started(lab, [PARTS], hard_disk(0))
    size = 3 * SECTOR
    buffer = port.memory.put(MINE * size)
    slot = powered_slot(machine)
    port.issue(command, 0, [Region(buffer, size)])
    slot.power(False)
    port.memory.write(buffer, MINE_AGAIN * size)
    wait_gone(machine)
    assert port.memory.read(buffer, size) == MINE_AGAIN * size


@DMA
def test_command_of_several_parts(lab: Lab, command: AtaCommand) -> None:
    machine, (port,) = started(lab, [PARTS], hard_disk(0))
    slot = powered_slot(machine)
    port.issue(command, 0, [Region(NO_RAM, 3 * BOUNCE)])
    slot.power(False)
    wait_gone(machine)


@pytest.mark.parametrize("what", ["list", "fises"])
def test_port_that_runs(lab: Lab, what: str) -> None:
    """A running port has its command list and received FISes mapped (AHCI 4.2)."""
    machine, (port,) = started(lab, [PARTS], hard_disk(0))
    port.stop()
    port.start(command_list=NO_RAM) if what == "list" else port.start(fises=NO_RAM)
    power_off(machine)
    wait_gone(machine)
