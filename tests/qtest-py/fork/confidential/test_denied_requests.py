"""A request that is denied ends after it began, so that its device can be reset and used again."""

import struct
from pathlib import Path

import pytest

from qap.hw.ahci import DEVICE_ID as AHCI
from qap.hw.ahci import (
    READ_DMA,
    TRIM,
    WRITE_DMA,
    AhciPort,
    AtaCommand,
    PortFailed,
    Region,
)
from qap.hw.ahci import VENDOR_ID as INTEL
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.scenario.confidential import VIOLATION
from qap.verify.kit.held_disk import NUMBERED, go_on, held_disk, hold
from qap.verify.kit.sev_guest import started
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID as VIRTIO
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer
from qap.virtio.scsi import BLOCK, CDB_SIZE, READ_10, REQUEST, RESPONSE, SENSE_SIZE, Scsi, Unit

RINGS, ROOM = 32 * MIB, 8 * MIB
PRIVATE = 48 * MIB
FORCE_UNIT_ACCESS = 1 << 3
CHECK_CONDITION = 2
ANSWER_S = 20.0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk each of whose sectors is filled with its number."""
    path = tmp_path / "disk.img"
    path.write_bytes(NUMBERED)
    return path


@pytest.mark.parametrize("command", [READ_DMA, WRITE_DMA, TRIM], ids=["read", "write", "trim"])
def test_ahci_port_is_stopped_and_reset_after_a_denied_command(
    tmp_path: Path, image: Path, command: AtaCommand
) -> None:
    devices: list[Device] = [
        {"driver": "ahci", "id": "dut"},
        {"driver": "ide-hd", "bus": "dut.0", "drive": "disk0"},
    ]
    blockdev = f"driver=file,node-name=disk0,filename={image},discard=unmap"
    with started(tmp_path, Mode.LONG, board="pc", devices=devices, blockdevs=[blockdev]) as guest:
        qtest = guest.machine.qtest
        memory = GuestMemory(qtest, RINGS, ROOM)
        port = AhciPort(PciBus(qtest).find(INTEL, AHCI), memory)
        guest.protect()
        guest.share(RINGS, ROOM)
        port.start()
        with pytest.raises(PortFailed):
            port.run(command, 1, [Region(PRIVATE, BLOCK)])
        seen = guest.machine.qmp.wait_event(VIOLATION, lambda data: True, ANSWER_S)
        assert (seen["device"], seen["address"]) == ("dut", PRIVATE)
        port.stop()
        port.reset()
        buffer = memory.take(BLOCK, PAGE)
        port.run(READ_DMA, 1, [Region(buffer, BLOCK)])
        assert qtest.read(buffer, BLOCK) == image.read_bytes()[BLOCK : 2 * BLOCK]


def test_scsi_buffer_is_taken_back_while_the_disk_flushes(tmp_path: Path, image: Path) -> None:
    """READ(10) with FUA flushes first, and maps its buffer after that."""
    devices: list[Device] = [
        {"driver": "virtio-scsi-pci", "id": "dut", "iommu_platform": True, "ioeventfd": False},
        {"driver": "scsi-hd", "id": "disk", "bus": "dut.0", "drive": "disk0"},
    ]
    blockdevs = held_disk(image)
    with started(tmp_path, Mode.LONG, devices=devices, blockdevs=blockdevs) as guest:
        vm = guest.machine
        driver = Driver(
            PciModern(PciBus(vm.qtest).find(VIRTIO)), GuestMemory(vm.qtest, RINGS, ROOM)
        )
        guest.protect()
        guest.share(RINGS, ROOM)
        assert driver.negotiate()
        scsi, unit = Scsi(driver), Unit(0)
        scsi.wake(unit)
        buffer = driver.memory.take(PAGE, PAGE)
        cdb = struct.pack(">BBIxHx", READ_10, FORCE_UNIT_ACCESS, 1, 1).ljust(CDB_SIZE, b"\0")
        request = struct.pack(f"<{REQUEST}", unit.pack(), 0, 0, 0, 0) + cdb
        size = struct.calcsize(f"<{RESPONSE}") + SENSE_SIZE
        answer = driver.memory.take(size)
        hold(vm, "disk", "flush_to_os")
        scsi.requestq.add(
            [
                Buffer(driver.memory.put(request), len(request)),
                Buffer(answer, size, writable=True),
                Buffer(buffer, BLOCK, writable=True),
            ]
        )
        driver.transport.notify(scsi.requestq.index)
        assert scsi.requestq.take_used() is None
        guest.take_back(buffer)
        go_on(vm, "disk")
        scsi.requestq.wait_used(ANSWER_S)
        _, _, _, status, response = struct.unpack(f"<{RESPONSE}", driver.memory.read(answer, 12))
        assert (response, status) == (0, CHECK_CONDITION)
        assert vm.qtest.read(buffer, BLOCK) == bytes(BLOCK)
        assert scsi.read(unit, 1) == image.read_bytes()[BLOCK : 2 * BLOCK]
