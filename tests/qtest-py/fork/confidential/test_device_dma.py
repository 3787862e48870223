"""Devices that are not virtio: DMA to shared, private and half-shared memory.

They answer with an error, write nothing into private memory, and work on afterwards.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.hw import ahci, e1000, nvme, xhci
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.scenario.confidential import Shared
from qap.verify.kit.sev_guest import SevGuest, started

RINGS, ROOM = 32 * MIB, 8 * MIB
SHARED, PRIVATE = 48 * MIB, 48 * MIB + PAGE
HALF = PRIVATE - 512
SIZE = 1024
DISK = bytes(range(256)) * 4096
FILLED = b"\x5a" * PAGE

Move = Callable[[int], bool]


@dataclass(frozen=True)
class Dut:
    """How a device is driven.

    Attributes:
        fill: lets it write SIZE bytes at an address, and says whether it did.
        drain: lets it read SIZE bytes at an address, and says whether it did.
        recover: what a driver does after an error.
    """

    fill: Move
    drain: Move
    recover: Callable[[], None]


def ahci_port(guest: SevGuest, memory: GuestMemory, *commands: ahci.AtaCommand) -> Dut:
    """A disk behind AHCI, by the commands that read and write it."""
    function = PciBus(guest.machine.qtest).find(ahci.VENDOR_ID, ahci.DEVICE_ID)
    port = ahci.AhciPort(function, memory)
    port.start()

    def move(command: ahci.AtaCommand) -> Move:
        def run(address: int) -> bool:
            try:
                port.run(command, 0, [ahci.Region(address, SIZE)])
            except ahci.PortFailed:
                return False
            return True

        return run

    read, write = commands
    return Dut(move(read), move(write), port.reset)


def by_dma(guest: SevGuest, memory: GuestMemory) -> Dut:
    return ahci_port(guest, memory, ahci.READ_DMA, ahci.WRITE_DMA)


def by_queue(guest: SevGuest, memory: GuestMemory) -> Dut:
    return ahci_port(guest, memory, ahci.READ_QUEUED, ahci.WRITE_QUEUED)


def nvme_controller(guest: SevGuest, memory: GuestMemory) -> Dut:
    """A disk behind NVMe."""
    function = PciBus(guest.machine.qtest).find(nvme.VENDOR_ID, nvme.DEVICE_ID)
    controller = nvme.Nvme(function, memory)
    controller.start()

    def move(run: Callable[[int, int, int], None]) -> Move:
        def moved(address: int) -> bool:
            try:
                run(0, address, SIZE)
            except nvme.NvmeFailed:
                return False
            return True

        return moved

    return Dut(move(controller.read), move(controller.write), lambda: None)


def nic(guest: SevGuest, memory: GuestMemory, model: e1000.NicModel) -> Dut:
    """A network controller that receives what it sends."""
    function = PciBus(guest.machine.qtest).find(e1000.VENDOR_ID, model.device_id)
    controller = e1000.Nic(function, memory, model)
    controller.start()
    header = b"\xff" * 6 + b"\x52\x54\x00\x01\x02\x03" + b"\x88\xb5"
    sent = header.ljust(SIZE, b"\x33")
    frame = memory.put(sent)
    room = memory.take(e1000.ROOM, PAGE)

    def receive(address: int) -> bool:
        index = controller.offer(address)
        controller.wait_sent(controller.send([(frame, SIZE)]))
        return controller.took(index) and guest.machine.qtest.read(address, SIZE) == sent

    def send(address: int) -> bool:
        index = controller.offer(room)
        controller.wait_sent(controller.send([(frame, 64), (address, SIZE)]))
        return controller.took(index)

    return Dut(receive, send, controller.start)


def e1000e(guest: SevGuest, memory: GuestMemory) -> Dut:
    return nic(guest, memory, e1000.E1000E)


def igb(guest: SevGuest, memory: GuestMemory) -> Dut:
    return nic(guest, memory, e1000.IGB)


def usb_keyboard(guest: SevGuest, memory: GuestMemory) -> Dut:
    """A keyboard: its descriptors are read, and its report is set (HID 1.11, 7.2.2)."""
    function = PciBus(guest.machine.qtest).find(xhci.VENDOR_ID, xhci.DEVICE_ID)
    controller = xhci.Xhci(function, memory)
    controller.start()

    def move(request: int, what: int, value: int) -> Move:
        def run(address: int) -> bool:
            setup = struct.pack("<BBHHH", request, what, value, 0, SIZE)
            last = controller.begin(setup, address, SIZE)
            return controller.ended(last)

        return run

    return Dut(move(0x80, 6, 0x0100), move(0x21, 9, 0x0200), controller.start)


DISK_ON_AHCI: list[Device] = [
    {"driver": "ahci", "id": "dut"},
    {"driver": "ide-hd", "bus": "dut.0", "drive": "disk0"},
]
DUTS: dict[str, tuple[list[Device], Callable[[SevGuest, GuestMemory], Dut]]] = {
    "ahci": (DISK_ON_AHCI, by_dma),
    "ahci-queued": (DISK_ON_AHCI, by_queue),
    "nvme": ([{"driver": "nvme", "id": "dut", "serial": "1", "drive": "disk0"}], nvme_controller),
    "e1000e": ([{"driver": "e1000e", "id": "dut"}], e1000e),
    "xhci": (
        [
            {"driver": "qemu-xhci", "id": "dut"},
            {"driver": "usb-kbd", "bus": "dut.0"},
        ],
        usb_keyboard,
    ),
    "igb": ([{"driver": "igb", "id": "dut"}], igb),
}


@pytest.mark.parametrize("place", [PRIVATE, HALF], ids=["private", "half-shared"])
@pytest.mark.parametrize("name", DUTS)
def test_device_is_kept_from_private_memory(tmp_path: Path, name: str, place: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(DISK)
    devices, drive = DUTS[name]
    disk = any("drive" in device for device in devices)
    blockdevs = [f"driver=file,node-name=disk0,filename={image}"] if disk else []
    with started(tmp_path, Mode.LONG, board="pc", devices=devices, blockdevs=blockdevs) as guest:
        qtest = guest.machine.qtest
        guest.protect()
        guest.share(RINGS, ROOM)
        guest.share(SHARED)
        dut = drive(guest, GuestMemory(qtest, RINGS, ROOM))
        assert dut.fill(SHARED)
        assert dut.drain(SHARED)
        assert Shared.of(guest.machine).violations == {}
        for page in (SHARED, PRIVATE):
            qtest.write(page, FILLED)
        assert not dut.fill(place)
        assert qtest.read(PRIVATE, PAGE) == FILLED
        dut.recover()
        assert not dut.drain(place)
        dut.recover()
        ((device, (reads, writes)),) = Shared.of(guest.machine).violations.items()
        assert device == "dut"
        assert reads
        assert writes
        assert dut.fill(SHARED)
        assert dut.drain(SHARED)
