"""What a device keeps mapped is not accessed once the guest has taken it back."""

import struct
from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw.ahci import DEVICE_ID as AHCI
from qap.hw.ahci import IS_HOST_BUS_FATAL, READ_DMA, READ_PIO, AhciPort, Region
from qap.hw.ahci import VENDOR_ID as INTEL
from qap.hw.fw_cfg import FwCfg
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.machine.machine import Machine
from qap.scenario.confidential import VIOLATION
from qap.verify.kit.held_disk import go_on, held_disk, hold
from qap.verify.kit.sev_guest import SevGuest, started
from qap.virtio.driver import Driver
from qap.virtio.gpu import PIXEL, Gpu, GpuResponse
from qap.virtio.pci_modern import VENDOR_ID as VIRTIO
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer

RINGS, ROOM = 32 * MIB, 8 * MIB
SECTOR = 512
PATTERN = b"\x5a" * PAGE
# AHCI 1.3.1, 4.2.1: where a PIO Setup FIS is put.
PIO_SETUP = 0x20
ANSWER_S = 20.0
SIDE = 64
# drm_fourcc.h: 32 bits of which 8 are unused, little-endian.
XRGB8888 = int.from_bytes(b"XR24", "little")


def violation(guest: SevGuest) -> tuple[str, int, str]:
    """Device, address and direction of the next violation."""
    seen = guest.machine.qmp.wait_event(VIOLATION, lambda data: True, ANSWER_S)
    return seen["device"], seen["address"], seen["direction"]


def prepared(guest: SevGuest) -> GuestMemory:
    """Memory for a driver, shared, in a guest that has private memory."""
    guest.protect()
    guest.share(RINGS, ROOM)
    return GuestMemory(guest.machine.qtest, RINGS, ROOM)


@pytest.mark.parametrize("area", ["list", "fises"])
def test_running_ahci_port_leaves_what_it_lost_alone(tmp_path: Path, area: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x77" * MIB)
    devices: list[Device] = [
        {"driver": "ahci", "id": "dut"},
        {"driver": "ide-hd", "bus": "dut.0", "drive": "disk0"},
    ]
    blockdevs = [f"driver=file,node-name=disk0,filename={image}"]
    with started(tmp_path, Mode.LONG, board="pc", devices=devices, blockdevs=blockdevs) as guest:
        memory, qtest = prepared(guest), guest.machine.qtest
        port = AhciPort(PciBus(qtest).find(INTEL, AHCI), memory)
        port.start()
        buffer = memory.take(SECTOR, PAGE)
        port.run(READ_DMA, 0, [Region(buffer, SECTOR)])
        lost = getattr(port, area)
        guest.take_back(lost)
        memory.write(buffer, bytes(SECTOR))
        if area == "fises":
            memory.write(lost, PATTERN)
        port.issue(READ_DMA, 0, [Region(buffer, SECTOR)])
        assert violation(guest) == ("dut", lost, "write" if area == "fises" else "read")
        poll_until(
            lambda: port.interrupts & IS_HOST_BUS_FATAL or None, ANSWER_S, lambda: "a bus error"
        )
        if area == "fises":
            assert memory.read(lost, PAGE) == PATTERN
        else:
            assert memory.read(buffer, SECTOR) == bytes(SECTOR)
            assert memory.read(lost + 4, 4) == bytes(4)
        guest.share(lost)
        port.reset()
        port.run(READ_DMA, 0, [Region(buffer, SECTOR)])
        assert memory.read(buffer, SECTOR) == b"\x77" * SECTOR


def test_ahci_port_does_not_transfer_by_pio_from_a_list_that_it_lost(tmp_path: Path) -> None:
    """The guest takes the list back while the port waits for the disk."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x77" * MIB)
    devices: list[Device] = [
        {"driver": "ahci", "id": "dut"},
        {"driver": "ide-hd", "id": "disk", "bus": "dut.0", "drive": "disk0"},
    ]
    blockdevs = held_disk(image)
    with started(tmp_path, Mode.LONG, board="pc", devices=devices, blockdevs=blockdevs) as guest:
        memory, vm = prepared(guest), guest.machine
        port = AhciPort(PciBus(vm.qtest).find(INTEL, AHCI), memory)
        port.start()
        buffer = memory.take(SECTOR, PAGE)
        hold(vm, "disk")
        port.issue(READ_PIO, 0, [Region(buffer, SECTOR)])
        guest.take_back(port.list)
        go_on(vm, "disk")
        assert violation(guest) == ("dut", port.list, "read")
        poll_until(
            lambda: port.interrupts & IS_HOST_BUS_FATAL or None, ANSWER_S, lambda: "a bus error"
        )
        assert memory.read(port.fises + PIO_SETUP, 1) == b"\0"
        assert memory.read(buffer, SECTOR) == bytes(SECTOR)


def test_display_does_not_copy_from_a_backing_it_lost(tmp_path: Path) -> None:
    devices: list[Device] = [{"driver": "virtio-gpu-pci", "id": "dut", "iommu_platform": True}]
    with started(tmp_path, Mode.LONG, devices=devices) as guest:
        memory = prepared(guest)
        driver = Driver(PciModern(PciBus(guest.machine.qtest).find(VIRTIO)), memory)
        assert driver.negotiate()
        gpu = Gpu(driver)
        pages = [memory.take(PAGE, PAGE) for _ in range(SIDE * SIDE * PIXEL // PAGE)]
        assert gpu.create(1, SIDE, SIDE) == GpuResponse.OK
        assert gpu.attach(1, [Buffer(page, PAGE) for page in pages]) == GpuResponse.OK
        assert gpu.transfer(1, SIDE, SIDE) == GpuResponse.OK
        guest.take_back(pages[2])
        assert gpu.transfer(1, SIDE, SIDE) == GpuResponse.UNSPECIFIED
        assert violation(guest) == ("dut", pages[2], "read")
        guest.share(pages[2])
        assert gpu.transfer(1, SIDE, SIDE) == GpuResponse.OK
        guest.take_back(pages[2])
        assert gpu.detach(1) == GpuResponse.OK


def shown(machine: Machine, folder: Path) -> bytes:
    """The first pixel of the screen: red, green, blue."""
    picture = folder / "screen.ppm"
    machine.qmp.execute("screendump", filename=str(picture))
    kind, _, _, pixels = picture.read_bytes().split(b"\n", 3)
    assert kind == b"P6"
    return pixels[:3]


def test_frame_buffer_that_was_lost_is_not_shown(tmp_path: Path) -> None:
    with started(tmp_path, Mode.LONG, devices=[{"driver": "ramfb"}]) as guest:
        memory = prepared(guest)
        frame = memory.take(SIDE * SIDE * PIXEL, PAGE)
        memory.write(frame, b"\x10\x20\x30\x00" * (SIDE * SIDE))
        setup = struct.pack(">QIIIII", frame, XRGB8888, 0, SIDE, SIDE, SIDE * PIXEL)
        config = FwCfg(memory)
        config.write("etc/ramfb", setup)
        assert shown(guest.machine, tmp_path) == b"\x30\x20\x10"
        lost = frame + PAGE
        guest.take_back(lost)
        assert shown(guest.machine, tmp_path) == b"\x00\x00\x00"
        seen = guest.machine.qmp.wait_event(VIOLATION, lambda data: True, ANSWER_S)
        assert (seen["address"], seen["direction"]) == (lost, "read")
        config.write("etc/ramfb", setup)
        assert shown(guest.machine, tmp_path) == b"\x00\x00\x00"
        guest.share(lost)
        config.write("etc/ramfb", setup)
        assert shown(guest.machine, tmp_path) == b"\x30\x20\x10"
