"""A driver stops or resets a disk's port: the command writes nothing later, nor is it tried again.

What fails while rerror and werror are "stop" is tried again once the machine goes on.
"""

from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw.ahci import (
    DEVICE_ID,
    PACKET_DMA,
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
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.checks import reset_machine
from qap.verify.kit.held_disk import NUMBERED, SECTOR, sector
from qap.verify.kit.lab import Lab
from qap.verify.kit.slow_disk import lift_limit, throttle_group, throttled

# Such a disk has its first request wait for four seconds, or until QEMU wants it to end.
SLOW = throttle_group("bps-total=128")
STOPPED_S = 20.0
BAD_SECTOR, GOOD_SECTOR, UNTOUCHED = 4, 100, 200
BAD_CD_SECTOR = 1
CD_SECTOR = 2048
READ_10 = bytes([0x28, 0, 0, 0, 0, BAD_CD_SECTOR, 0, 0, 1, 0, 0, 0])
MINE, MINE_AGAIN = b"\xaa", b"\x55"

COMMANDS = {
    "read": READ_DMA,
    "write": WRITE_DMA,
    "read-queued": READ_QUEUED,
    "write-queued": WRITE_QUEUED,
    "read-pio": READ_PIO,
    "write-pio": WRITE_PIO,
}


def disk(folder: Path, *, slow: bool) -> list[str]:
    """One with a bad sector."""
    image = folder / "disk0.img"
    image.write_bytes(NUMBERED)
    bad = "driver=blkdebug,image=file0,inject-error.0.event=none"
    bad += f",inject-error.0.sector={BAD_SECTOR},node-name="
    file = f"driver=file,node-name=file0,filename={image}"
    if not slow:
        return [file, f"{bad}disk0"]
    return [file, f"{bad}bad0", throttled("bad0")]


def started(lab: Lab, disks: list[str], driver: str = "ide-hd") -> tuple[Machine, AhciPort]:
    drive: Device = {"driver": driver, "bus": "ide.0", "drive": "disk0"}
    stops: Device = {"rerror": "stop", "werror": "stop"}
    machine = lab.machine({**drive, **stops}, blockdevs=disks, extra=SLOW, qtest=True)
    function = PciBus(machine.qtest).find(VENDOR_ID, DEVICE_ID)
    port = AhciPort(function, GuestMemory(machine.qtest, 16 * MIB, 4 * MIB))
    port.start()
    return machine, port


def status(machine: Machine) -> str:
    answer: str = machine.qmp.execute("query-status")["status"]
    return answer


def wait_stopped(machine: Machine) -> None:
    poll_until(
        lambda: status(machine) == "io-error" or None, STOPPED_S, lambda: "the command to fail"
    )


def go_on(machine: Machine) -> None:
    """Let the machine run; it does not stop again."""
    machine.qmp.execute("cont")
    for _ in range(64):
        assert status(machine) == "running"


def assert_reads(machine: Machine, port: AhciPort) -> None:
    lift_limit(machine)
    port.reset()
    buffer = port.memory.take(SECTOR)
    port.run(READ_DMA, UNTOUCHED, [Region(buffer, SECTOR)])
    assert port.memory.read(buffer, SECTOR) == sector(UNTOUCHED)


@pytest.mark.parametrize("command", [READ_QUEUED, WRITE_QUEUED], ids=["read", "write"])
def test_queued_command_ends_before_its_port_stops(
    lab: Lab, tmp_path: Path, command: AtaCommand
) -> None:
    """The driver has its memory back then."""
    machine, port = started(lab, disk(tmp_path, slow=True))
    buffer = port.memory.put(MINE * SECTOR)
    port.issue(command, GOOD_SECTOR, [Region(buffer, SECTOR)])
    port.stop()
    port.memory.write(buffer, MINE_AGAIN * SECTOR)
    assert_reads(machine, port)
    assert port.memory.read(buffer, SECTOR) == MINE_AGAIN * SECTOR
    seen = (tmp_path / "disk0.img").read_bytes()[GOOD_SECTOR * SECTOR :][:SECTOR]
    assert seen == (MINE * SECTOR if command.write else sector(GOOD_SECTOR))


def test_read_by_pio_that_is_stopped_is_no_error(lab: Lab, tmp_path: Path) -> None:
    machine, port = started(lab, disk(tmp_path, slow=True))
    port.issue(READ_PIO, GOOD_SECTOR, [Region(port.memory.take(SECTOR), SECTOR)])
    port.stop()
    assert status(machine) == "running"
    assert_reads(machine, port)


@pytest.mark.parametrize("command", [READ_DMA, WRITE_DMA], ids=["read", "write"])
def test_command_that_fails_while_its_port_is_stopped(
    lab: Lab, tmp_path: Path, command: AtaCommand
) -> None:
    """The driver goes on until the main loop stops the machine."""
    machine, port = started(lab, disk(tmp_path, slow=True))
    port.issue(command, BAD_SECTOR, [Region(port.memory.take(SECTOR), SECTOR)])
    port.stop()
    port.start()
    wait_stopped(machine)
    go_on(machine)
    assert_reads(machine, port)


@pytest.mark.parametrize("goes_on", [False, True], ids=["stops", "starts-again"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_port_of_a_command_that_has_failed_is_stopped(
    lab: Lab, tmp_path: Path, command: AtaCommand, goes_on: bool
) -> None:
    machine, port = started(lab, disk(tmp_path, slow=False))
    port.issue(command, BAD_SECTOR, [Region(port.memory.take(SECTOR), SECTOR)])
    wait_stopped(machine)
    port.stop()
    if goes_on:
        port.start()
    go_on(machine)
    assert_reads(machine, port)


@pytest.mark.parametrize("command", [READ_DMA, WRITE_DMA], ids=["read", "write"])
def test_command_that_has_failed_is_reset(lab: Lab, tmp_path: Path, command: AtaCommand) -> None:
    machine, port = started(lab, disk(tmp_path, slow=False))
    port.issue(command, BAD_SECTOR, [Region(port.memory.take(SECTOR), SECTOR)])
    wait_stopped(machine)
    reset_machine(machine)
    go_on(machine)


def test_packet_that_has_failed_is_reset(lab: Lab, tmp_path: Path) -> None:
    machine, port = started(lab, disk(tmp_path, slow=False), "ide-cd")
    port.issue(PACKET_DMA, 0, [Region(port.memory.take(CD_SECTOR), CD_SECTOR)], READ_10)
    wait_stopped(machine)
    reset_machine(machine)
    go_on(machine)
