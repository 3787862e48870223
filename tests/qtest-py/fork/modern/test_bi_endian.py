"""Machines whose guests choose their byte order when they run: MMIO 1, MMIO 2 and PCI.

It is arm's virt, of the build profile bi-endian. Python has its CPU carry out what a driver does.
"""

import pytest

from qap.hw.arm_cpu import Order
from qap.machine.catalog import device_types
from qap.matrix.config_reading import ConfigReader, ConfigReading, misread
from qap.oracle import config
from qap.oracle.config import Interface
from qap.oracle.features import mask
from qap.verify.kit.bi_endian import BiEndian
from qap.verify.kit.big_endian import Bus
from qap.verify.kit.lab import SECTORS
from qap.virtio.blk import Blk
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transport import Transport

# Types in QEMU itself whose configuration is in the guest's order for a legacy driver.
KINDS = [
    kind
    for kind, row in device_types().items()
    if {"pci", "mmio"} <= {*row.transports}
    and row.served_by == "in-qemu"
    and row.legacy
    and row.config_layout not in ("", "8s")
    and not row.config_layout.startswith("<")
]
DISK = "virtio-blk"
SIZE = 8
LEGACY = Behaviour(0, sets_features_ok=False)
Orders = pytest.mark.parametrize("order", ["big", "little"])


def read(kind: str, transport: Transport, turn: int = 0) -> list[ConfigReading]:
    row = device_types()[kind]
    return [*ConfigReader(transport, turn, config.size(row.config_layout), mask(row.accepts)).run()]


@Orders
@pytest.mark.parametrize("kind", KINDS)
def test_legacy_driver_reads_the_guests_order_on_mmio(
    bi_endian: BiEndian, kind: str, order: Order
) -> None:
    """2.5.4; what a modern driver reads of such a device says what the bytes are."""
    modern = bi_endian.start(kind, "mmio").reached("modern", "little")
    legacy = bi_endian.start(kind, "mmio", "legacy").reached("legacy", order)
    readings = [*read(kind, modern), *read(kind, legacy, 1)]
    assert misread(readings, device_types()[kind].config_layout, order) == []


@pytest.mark.parametrize("kind", KINDS)
def test_modern_driver_of_a_big_endian_guest_reads_little_endian_on_mmio(
    bi_endian: BiEndian, kind: str
) -> None:
    device = bi_endian.start(kind, "mmio").reached("modern", "big")
    assert misread(read(kind, device), device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", KINDS)
def test_drivers_of_both_kinds_take_turns_in_a_big_endian_guest(
    bi_endian: BiEndian, kind: str
) -> None:
    machine = bi_endian.start(kind, "pci")
    turns: list[Interface] = ["modern", "legacy", "modern"]
    readings: list[ConfigReading] = []
    for turn, interface in enumerate(turns):
        readings += read(kind, machine.reached(interface, "big"), turn)
    assert misread(readings, device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("bus", ["pci", "mmio"])
def test_legacy_drivers_of_guests_of_both_orders_take_turns(bi_endian: BiEndian, bus: Bus) -> None:
    """Such as firmware of one order and an operating system of the other: 2.4, a reset decides."""
    machine = bi_endian.start(DISK, bus, "legacy")
    turns: list[Order] = ["big", "little", "big"]
    for order in turns:
        legacy = machine.reached("legacy", order)
        legacy.reset()
        assert legacy.config_read(0, SIZE) == SECTORS.to_bytes(SIZE, order)


@Orders
@pytest.mark.parametrize(
    ("bus", "interface"),
    [("pci", "modern"), ("pci", "legacy"), ("mmio", "modern"), ("mmio", "legacy")],
)
def test_disk_is_served(bi_endian: BiEndian, bus: Bus, interface: Interface, order: Order) -> None:
    """Rings and requests are in the order of the interface."""
    machine = bi_endian.start(DISK, bus, interface)
    transport = machine.reached(interface, order)
    driver = Driver(transport, machine.memory, LEGACY if interface == "legacy" else None)
    driver.negotiate()
    disk = Blk(driver)
    assert (disk.capacity, disk.read(3)) == (SECTORS, bytes(512))
