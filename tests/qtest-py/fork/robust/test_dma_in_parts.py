"""DMA to what is no RAM waits for its turn, goes on in parts, and can be ended meanwhile.

QEMU copies such data by a bounce buffer. A function has 4096 bytes of them.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw import nvme
from qap.hw.ahci import (
    DEVICE_ID,
    READ_DMA,
    READ_QUEUED,
    WRITE_DMA,
    WRITE_PIO,
    WRITE_QUEUED,
    AhciPort,
    AtaCommand,
    Region,
)
from qap.hw.ahci import VENDOR_ID as INTEL
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.held_disk import NUMBERED, SECTOR, go_on, held_disk, hold, sector
from qap.verify.kit.lab import Lab
from qap.verify.kit.slow_disk import lift_limit, null_disk, operations, throttle_group, throttled

NO_RAM = 1 << 40
NO_LOW_RAM = 1 << 30
BOUNCE = 4096
UNTOUCHED = 100
# A second request waits for a second, which does not pass by itself, or until QEMU wants it to end.
LIMIT = throttle_group("iops-total=1")
SLOW = [null_disk("null0"), throttled("null0")]
QUEUE = 2
# Each request takes a tenth of a second.
TENTH = null_disk(latency_s=0.1)
SECOND_NS = 1_000_000_000
LOOKS = 16
ANSWER_S = 20.0
# ATA/ATAPI Command Set 2, 7; the registers are where a PC has them.
READ_DMA_28, WRITE_DMA_28 = 0xC8, 0xCA
COMMAND_BLOCK, CONTROL_BLOCK = 0x1F0, 0x3F6
SOFTWARE_RESET = 1 << 2
BUSY = 1 << 7
PIIX3_IDE = 0x7010
START, TO_MEMORY = 1 << 0, 1 << 3


def disk(folder: Path, number: int) -> list[str]:
    image = folder / f"disk{number}.img"
    image.write_bytes(NUMBERED)
    return held_disk(image, number)


def on_sata(number: int) -> Device:
    return {
        "driver": "ide-hd",
        "id": f"dut{number}",
        "bus": f"ide.{number}",
        "drive": f"disk{number}",
        "rerror": "stop",
        "werror": "stop",
    }


def ports(machine: Machine, count: int) -> list[AhciPort]:
    """The first ports of the machine's AHCI, started."""
    function = PciBus(machine.qtest).find(INTEL, DEVICE_ID)
    memory = GuestMemory(machine.qtest, 16 * MIB, 4 * MIB)
    started = [AhciPort(function, memory, number) for number in range(count)]
    for port in started:
        port.start()
    return started


def assert_reads(port: AhciPort) -> None:
    """It reads a sector into RAM that no test writes."""
    buffer = port.memory.take(SECTOR)
    port.run(READ_DMA, UNTOUCHED, [Region(buffer, SECTOR)])
    assert port.memory.read(buffer, SECTOR) == sector(UNTOUCHED)


def end_while_it_waits(
    lab: Lab, folder: Path, command: AtaCommand, end: Callable[[AhciPort], None]
) -> None:
    """Another disk has the bounce buffers while the command is to be ended."""
    disks = [*disk(folder, 0), *disk(folder, 1)]
    machine = lab.machine(on_sata(0), on_sata(1), blockdevs=disks, qtest=True)
    holder, dut = ports(machine, 2)
    hold(machine, "dut0")
    holder.issue(READ_DMA, 1, [Region(NO_RAM, BOUNCE)])
    dut.issue(command, 0, [Region(NO_RAM, BOUNCE)])
    end(dut)
    assert machine.qmp.execute("query-status")["status"] == "running"
    go_on(machine, "dut0")
    holder.wait()
    dut.reset()
    assert_reads(dut)
    assert_reads(holder)


@pytest.mark.parametrize(
    "command",
    [READ_DMA, WRITE_DMA, READ_QUEUED, WRITE_QUEUED],
    ids=["read", "write", "read-queued", "write-queued"],
)
def test_ahci_request_that_waits_is_ended_by_reset(
    lab: Lab, tmp_path: Path, command: AtaCommand
) -> None:
    end_while_it_waits(lab, tmp_path, command, AhciPort.reset_link)


@pytest.mark.parametrize("command", [READ_DMA, WRITE_DMA], ids=["read", "write"])
def test_ahci_request_that_waits_is_ended_by_stop(
    lab: Lab, tmp_path: Path, command: AtaCommand
) -> None:
    end_while_it_waits(lab, tmp_path, command, AhciPort.stop)


@pytest.mark.parametrize("command", [READ_DMA, WRITE_DMA], ids=["read", "write"])
def test_ahci_port_is_stopped_between_two_parts(lab: Lab, command: AtaCommand) -> None:
    machine = lab.machine(on_sata(0), blockdevs=SLOW, extra=LIMIT, qtest=True)
    (port,) = ports(machine, 1)
    port.issue(command, 0, [Region(NO_RAM, 3 * BOUNCE)])
    port.stop()
    lift_limit(machine, "iops-total")
    port.reset()
    port.run(READ_DMA, 0, [Region(port.memory.take(SECTOR), SECTOR)])


@pytest.mark.parametrize(
    "command",
    [READ_DMA, WRITE_DMA, READ_QUEUED, WRITE_QUEUED],
    ids=["read", "write", "read-queued", "write-queued"],
)
def test_parts_are_whole_sectors(lab: Lab, tmp_path: Path, command: AtaCommand) -> None:
    """The bounce buffers end in the midst of the ninth sector of ten."""
    machine = lab.machine(on_sata(0), blockdevs=disk(tmp_path, 0), qtest=True)
    (port,) = ports(machine, 1)
    first, last = port.memory.put(b"\x11" * 256), port.memory.put(b"\x22" * SECTOR)
    places = [(first, 256), (NO_RAM, BOUNCE), (NO_RAM, 256), (last, SECTOR)]
    port.run(command, 0, [Region(*place) for place in places])
    if command.write:
        machine.qmp.hmp('qemu-io -d dut0 "flush"')
        seen = (tmp_path / "disk0.img").read_bytes()
        assert seen[:256] == b"\x11" * 256
        assert seen[9 * SECTOR : 10 * SECTOR] == b"\x22" * SECTOR
        assert seen[10 * SECTOR :] == NUMBERED[10 * SECTOR :]
    else:
        assert port.memory.read(first, 256) == sector(0)[:256]
        assert port.memory.read(last, SECTOR) == sector(9)
    assert_reads(port)


def test_part_is_less_than_a_sector(lab: Lab, tmp_path: Path) -> None:
    """Another disk leaves bounce buffers for half a sector; the next part ends with a sector."""
    disks = [*disk(tmp_path, 0), *disk(tmp_path, 1)]
    machine = lab.machine(on_sata(0), on_sata(1), blockdevs=disks, qtest=True)
    holder, dut = ports(machine, 2)
    rest, buffer = (dut.memory.take(SECTOR) for _ in range(2))
    hold(machine, "dut0")
    holder.issue(READ_DMA, 0, [Region(NO_RAM, BOUNCE - 256), Region(rest, 256)])
    dut.run(READ_DMA, 1, [Region(NO_RAM, SECTOR), Region(buffer, SECTOR)])
    assert dut.memory.read(buffer, SECTOR) == sector(2)
    go_on(machine, "dut0")
    holder.wait()


@pytest.mark.parametrize("command", [READ_DMA_28, WRITE_DMA_28], ids=["read", "write"])
def test_bus_master_is_stopped_between_two_parts(lab: Lab, command: int) -> None:
    """PIIX3's (82371SB, 2.7), which an operating system starts again."""
    ide: Device = {"driver": "ide-hd", "bus": "ide.0", "drive": "disk0"}
    spec = Spec("pc", accel="qtest", devices=[ide], blockdevs=SLOW, extra=LIMIT, qtest=True)
    path = lab.build.path("qemu-system-x86_64")
    machine = lab.owned.enter_context(Machine(path, spec))
    qtest = machine.qtest
    function = PciBus(qtest).find(INTEL, PIIX3_IDE)
    bus_master = function.map_bars()[4].address
    memory = GuestMemory(qtest)
    pieces = [(NO_LOW_RAM + at, BOUNCE) for at in range(0, 3 * BOUNCE, BOUNCE)]
    table = b"".join(struct.pack("<IHH", at, size, 0) for at, size in pieces[:-1])
    last, size = pieces[-1]
    qtest.outl(bus_master + 4, memory.put(table + struct.pack("<IHH", last, size, 1 << 15)))
    for register, value in ((6, 0xE0), (2, 3 * BOUNCE // SECTOR), (3, 0), (4, 0), (5, 0)):
        qtest.outb(COMMAND_BLOCK + register, value)
    qtest.outb(COMMAND_BLOCK + 7, command)
    direction = TO_MEMORY if command == READ_DMA_28 else 0
    for start in (START, 0, START):
        qtest.outb(bus_master, direction | start)
    assert machine.qmp.execute("query-status")["status"] == "running"
    qtest.outb(CONTROL_BLOCK, SOFTWARE_RESET)
    qtest.outb(CONTROL_BLOCK, 0)
    poll_until(
        lambda: not qtest.inb(COMMAND_BLOCK + 7) & BUSY or None, ANSWER_S, lambda: "a reset disk"
    )


@pytest.mark.parametrize("end", ["delete", "reset"])
def test_nvme_request_that_waits_is_ended(lab: Lab, tmp_path: Path, end: str) -> None:
    devices: list[Device] = [
        {"driver": "nvme", "id": "nvme", "serial": "1"},
        *({"driver": "nvme-ns", "drive": drive} for drive in ("limited", "disk1")),
    ]
    # A reset of the controller lets requests go on that wait for this disk's second to be over.
    disks = [*disk(tmp_path, 0), throttled("disk0", "limited"), *disk(tmp_path, 1)]
    machine = lab.machine(*devices, blockdevs=disks, qtest=True, extra=LIMIT)
    function = PciBus(machine.qtest).find(nvme.VENDOR_ID, nvme.DEVICE_ID)
    memory = GuestMemory(machine.qtest, 16 * MIB, 4 * MIB)
    controller = nvme.Nvme(function, memory)
    controller.start()
    other = controller.add_queue(QUEUE)
    buffer = memory.take(SECTOR, nvme.PAGE)
    controller.read(0, buffer, SECTOR)
    count = BOUNCE // nvme.BLOCK - 1
    controller.begin(controller.io, nvme.READ, (NO_RAM, 0), 0, 0, count, namespace=1)
    controller.begin(other, nvme.READ, (NO_RAM, 0), 0, 0, count, namespace=2)
    if end == "delete":
        controller.delete_submissions(other)
        machine.qtest.clock_step(SECOND_NS)
        controller.finish(controller.io, "the read that was held")
        machine.qtest.clock_step(SECOND_NS)
    else:
        controller.start()
        machine.qtest.clock_step(SECOND_NS)
    controller.read(1, buffer, SECTOR)
    assert memory.read(buffer, SECTOR) == sector(1)


@pytest.mark.parametrize("end", ["stop", "reset"])
def test_ahci_port_is_ended_during_a_write_by_pio(lab: Lab, end: str) -> None:
    """Each sector of PIO is a write of its own; what the port has not begun is not written."""
    machine = lab.machine(on_sata(0), blockdevs=[TENTH], qtest=True)
    (port,) = ports(machine, 1)
    count = 16
    source = port.memory.take(SECTOR * count)
    port.issue(WRITE_PIO, 0, [Region(source, SECTOR * count)])
    if end == "stop":
        port.stop()
        port.start()
    port.reset()
    ended = operations(machine, "wr")
    for _ in range(LOOKS):
        port.run(READ_DMA, 0, [Region(source, SECTOR)])
    assert operations(machine, "wr") == ended < count
