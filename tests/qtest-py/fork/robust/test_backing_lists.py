"""A display adapter's driver says where its images are, piece by piece: the list has an end.

Resources as in virtio 1.3, 5.7.6.8: RESOURCE_ATTACH_BACKING gives an image its memory.
"""

import struct
from dataclasses import dataclass

import pytest

from qap.hw.pci_bus import PciBus
from qap.iommu.find import find_iommu
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transports import TRANSPORTS

CREATE_2D, UNREF, TRANSFER_TO_HOST_2D = 0x101, 0x102, 0x105
ATTACH_BACKING, DETACH_BACKING = 0x106, 0x107
OK, UNSPEC = 0x1100, 0x1200
B8G8R8A8 = 1
HEAD = 24
GPU = 16
# QEMU takes this many entries at most.
ENTRIES = 16384
LIMIT = "1M"
# Two lists of as many entries fit in the limit, at 24 bytes each, and a third does not.
FITS = 2
# An image of 4 GiB would have so many.
LARGE = 64 * MIB
LARGE_ENTRIES = 64
# An image of two pixels a row, and a list that covers it and ends before BEYOND. QEMU hangs for
# minutes where it looks for each row from the list's start.
TALL, PIECE = 32_000_000, 4 * PAGE
BEYOND = 0xF000_0000
WALKED_S = 20.0
# What an IOMMU shows the adapter: pages in an order that no two of them can be mapped at once.
SHOWN, SHOWN_RAM, PAGES = 1 << 32, 24 * MIB, 8


@dataclass
class Adapter:
    """A driver that asks for images."""

    driver: Driver
    queue: Queue

    def ask(self, kind: int, *fields: int, entries: bytes = b"") -> int:
        """A command of 32-bit fields; returns the answer's type."""
        memory = self.driver.memory
        words = struct.pack(f"<I20x{len(fields)}I", kind, *fields)
        out = Buffer(memory.put(words + entries), len(words + entries))
        answer = Buffer(memory.take(HEAD), HEAD, writable=True)
        self.driver.serve(self.queue, [out, answer])
        (result,) = struct.unpack("<I", memory.read(answer.address, 4))
        assert isinstance(result, int)
        return result

    def create(self, image: int, width: int = 1, height: int = 1) -> None:
        assert self.ask(CREATE_2D, image, B8G8R8A8, width, height) == OK

    def attach(self, image: int, address: int, length: int, count: int) -> int:
        entries = struct.pack("<QII", address, length, 0) * count
        return self.ask(ATTACH_BACKING, image, count, entries=entries)


def adapter(driver: Driver) -> Adapter:
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    return Adapter(driver, queue)


@pytest.mark.parametrize("variant", ["pci modern", "mmio 2", "ccw 2"])
def test_lists_of_all_images_have_a_limit(lab: Lab, variant: str) -> None:
    way = TRANSPORTS[variant]
    spec = way.spec("virtio-gpu", (), max_hostmem=LIMIT)
    machine = lab.start(way.emulator, spec)
    ours = adapter(Driver(way.connect(machine), GuestMemory(machine.qtest)))
    memory = ours.driver.memory
    page = memory.take(PAGE)
    for image in range(1, FITS + 2):
        ours.create(image)
    lists = [ours.attach(image, page, PAGE, ENTRIES) for image in range(1, FITS + 2)]
    assert lists == [OK] * FITS + [UNSPEC]
    # What is given back may be used again.
    assert ours.ask(DETACH_BACKING, 1, 0) == OK
    assert ours.ask(UNREF, 2, 0) == OK
    assert ours.attach(1, page, PAGE, ENTRIES) == OK
    assert ours.attach(3, page, PAGE, ENTRIES) == OK


@pytest.mark.parametrize("variant", ["pci modern", "mmio 2", "ccw 2"])
def test_list_is_not_longer_than_an_image_may_be(lab: Lab, variant: str) -> None:
    """Each page of it may have to be translated."""
    way = TRANSPORTS[variant]
    machine = lab.start(way.emulator, way.spec("virtio-gpu"))
    ours = adapter(Driver(way.connect(machine), GuestMemory(machine.qtest)))
    ours.create(1)
    assert ours.attach(1, 32 * MIB, LARGE, LARGE_ENTRIES + 1) == UNSPEC
    assert ours.attach(1, 32 * MIB, LARGE, LARGE_ENTRIES) == OK


@pytest.mark.parametrize("viommu", ["intel-iommu", "amd-iommu", "virtio-iommu"])
def test_an_entry_has_as_many_pieces_as_pages(lab: Lab, viommu: str) -> None:
    """An IOMMU may map each page of it elsewhere."""
    card: Device = {"driver": "virtio-gpu-pci", "max_hostmem": LIMIT}
    machine = lab.machine({**card, "iommu_platform": True}, viommu=viommu, qtest=True)
    bus = PciBus(machine.qtest)
    function = bus.find(VENDOR_ID, MODERN_DEVICE_ID + GPU)
    memory = GuestMemory(machine.qtest, 16 * MIB, 8 * MIB)
    iommu = find_iommu(bus, GuestMemory(machine.qtest, 100 * MIB, 16 * MIB))
    iommu.attach(function.bdf)
    iommu.map_memory(function.bdf, memory)
    for page in range(PAGES):
        last = SHOWN_RAM + (PAGES - 1) * PAGE
        iommu.map(function.bdf, SHOWN + page * PAGE, last - page * PAGE, PAGE)
    iommu.enable()
    ours = adapter(Driver(PciModern(function), memory))
    ours.create(1)
    entries = ENTRIES // PAGES
    assert ours.attach(1, SHOWN, PAGES * PAGE, (FITS + 1) * entries) == UNSPEC
    assert ours.attach(1, SHOWN, PAGES * PAGE, FITS * entries) == OK


@pytest.mark.parametrize("offset", [0, BEYOND], ids=["in the list", "beyond its end"])
def test_list_is_walked_once_for_all_rows(lab: Lab, offset: int) -> None:
    way = TRANSPORTS["pci modern"]
    machine = lab.start(way.emulator, way.spec("virtio-gpu"))
    ours = adapter(Driver(way.connect(machine), GuestMemory(machine.qtest)))
    ours.create(1, 2, TALL)
    piece = ours.driver.memory.take(PIECE)
    assert ours.attach(1, piece, PIECE, ENTRIES) == OK
    machine.qtest.timeout = WALKED_S
    # The second pixel of each row.
    assert ours.ask(TRANSFER_TO_HOST_2D, 1, 0, 1, TALL, offset, 0, 1, 0) == OK
