"""A device in an iothread that meets what is not memory, while it works and while it is reset.

The main loop then holds the BQL and waits for the iothread.
"""

from dataclasses import replace

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import firmware_option
from qap.iommu.find import find_iommu
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.oracle.status import Status
from qap.verify.kit.lab import Lab
from qap.virtio.blk import BlkRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.raw import Descriptor, RawQueue
from qap.virtio.split import DESC_F_NEXT, DESC_F_WRITE
from qap.virtio.transports import TRANSPORTS, Beside

IOTHREAD = ("-object", "iothread,id=io0,poll-max-ns=0")
DISK = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
BLK: dict[str, object] = {"drive": "disk0", "iothread": "io0"}
BLK_ID = MODERN_DEVICE_ID + 2
TOLD_S = 5.0
TURNS = 3
LOOKS = 64
SCRATCH = 4 * MIB

# The I/O APIC of q35 and microvm, and an address where nothing is.
PLACES = {"a device": 0xFEC0_0000, "nothing": 0x7000_0000}
DATA, HEADER, RING = ("data in", "data out"), ("header",), ("desc", "driver", "device")

# VT-d 11.4.7: registers of the fault event's interrupt, and where QEMU has the unit.
VTD = 0xFED9_0000
FAULT_CONTROL, FAULT_DATA, FAULT_ADDRESS = 0x38, 0x3C, 0x40
LOCAL_APIC, VECTOR = 0xFEE0_0000, 0x41
UNMAPPED = 0x1000


def keep_busy(machine: Machine) -> None:
    """Keep the main loop, and with it the BQL, until the iothread has woken up."""
    for _ in range(10):
        machine.qtest.memset(SCRATCH, 8 * MIB, 0)


def request(queue: RawQueue, part: str, place: int) -> None:
    """Put a request into the queue, one of whose parts is at `place`."""
    memory = queue.memory
    write = part == "data out"
    header = memory.put(bytes([BlkRequest.OUT if write else BlkRequest.IN]) + bytes(15))
    data = [memory.take(512), 0 if write else DESC_F_WRITE]
    if part in DATA:
        data[0] = place
    chain = [
        Descriptor(place if part in HEADER else header, 16, DESC_F_NEXT, 1),
        Descriptor(data[0], 512, DESC_F_NEXT | data[1], 2),
        Descriptor(memory.take(1), 1, DESC_F_WRITE),
    ]
    for index, descriptor in enumerate(chain):
        queue.put(index, *descriptor)


@pytest.mark.parametrize(
    ("part", "place"),
    [
        *((part, "a device") for part in (*DATA, *HEADER, *RING)),
        ("data in", "nothing"),
        ("desc", "nothing"),
    ],
)
@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_request_at_no_memory_is_reset(lab: Lab, name: str, part: str, place: str) -> None:
    variant = TRANSPORTS[name]
    spec = variant.spec("virtio-blk", [DISK], Beside(extra=IOTHREAD), **BLK)
    machine = lab.start(variant.emulator, spec)
    machine.qtest.timeout = TOLD_S
    transport = variant.connect(machine)
    for _ in range(TURNS):
        driver = Driver(transport, GuestMemory(machine.qtest))
        driver.negotiate()
        queue = driver.raw_queue(0, 8)
        request(queue, part, PLACES[place])
        if part in RING:
            moved = replace(queue.addresses, **{part: PLACES[place]})
            driver.negotiate()
            transport.enable_queue(0, moved)
        driver.start()
        queue.offer(0)
        with machine.qtest.at_once():
            transport.notify(0)
            keep_busy(machine)
            transport.set_status(Status(0))
        assert not transport.status


def translated(lab: Lab, viommu: str, accel: str) -> tuple[Machine, Driver]:
    """A disk in an iothread behind a vIOMMU, negotiated with."""
    blk = {"driver": "virtio-blk-pci", "disable-legacy": "on", "iommu_platform": True, **BLK}
    spec = Spec(
        "q35",
        accel,
        devices=[{"driver": viommu}, blk],
        blockdevs=[DISK],
        extra=[*IOTHREAD, *firmware_option(lab.folder)],
        qtest=True,
    )
    machine = lab.start("qemu-system-x86_64", spec)
    machine.qtest.timeout = TOLD_S
    bus = PciBus(machine.qtest)
    function = bus.find(VENDOR_ID, BLK_ID)
    memory = GuestMemory(machine.qtest, 16 * MIB, 8 * MIB, iova=1 << 32)
    iommu = find_iommu(bus, GuestMemory(machine.qtest, 64 * MIB, 4 * MIB))
    iommu.attach(function.bdf)
    iommu.map_memory(function.bdf, memory)
    iommu.enable()
    driver = Driver(PciModern(function), memory)
    driver.negotiate()
    return machine, driver


def offer_unmapped(driver: Driver) -> RawQueue:
    """A chain whose only buffer has no translation, with DRIVER_OK set."""
    queue = driver.raw_queue(0, 8)
    driver.start()
    queue.put(0, UNMAPPED, 16)
    queue.offer(0)
    return queue


@pytest.mark.parametrize("viommu", ["intel-iommu", "amd-iommu", "virtio-iommu-pci"])
def test_device_without_a_translation_is_reset(lab: Lab, viommu: str) -> None:
    machine, driver = translated(lab, viommu, "qtest")
    for _ in range(TURNS):
        offer_unmapped(driver)
        with machine.qtest.at_once():
            driver.transport.notify(0)
            keep_busy(machine)
            driver.transport.set_status(Status(0))
        driver.negotiate()


def test_fault_of_an_iothread_interrupts_the_cpu(lab: Lab) -> None:
    """TCG asserts that a CPU is interrupted under the BQL."""
    machine, driver = translated(lab, "intel-iommu", "tcg")
    for register, value in ((FAULT_DATA, VECTOR), (FAULT_ADDRESS, LOCAL_APIC), (FAULT_CONTROL, 0)):
        machine.qtest.writel(VTD + register, value)
    offer_unmapped(driver)
    driver.transport.notify(0)
    assert poll_until(
        lambda: True if f" {VECTOR} " in machine.qmp.hmp("info lapic") else None,
        TOLD_S,
        lambda: f"interrupt {VECTOR:#x}",
    )
    # The CPU's local APIC has the interrupt before TCG looks at the lock.
    assert all(machine.alive for _ in range(LOOKS))
