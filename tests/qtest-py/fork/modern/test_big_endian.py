"""The same on a big-endian machine with virtio-mmio, and with PCI behind memory-mapped registers.

It is or1k's virt, of the build profile big-endian.
"""

import pytest

from qap.machine.catalog import device_types
from qap.machine.guest_memory import GuestMemory
from qap.matrix.config_reading import ConfigReader, ConfigReading, misread
from qap.oracle import config
from qap.oracle.config import Interface
from qap.oracle.features import mask
from qap.verify.kit.big_endian import BigEndian, Bus, reached
from qap.verify.kit.checks import reset_machine
from qap.verify.kit.lab import SECTORS
from qap.virtio.blk import Blk
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transport import Transport

LEGACY = Behaviour(0, sets_features_ok=False)


def kinds(bus: Bus) -> list[str]:
    """Types in QEMU itself whose configuration is in the guest's order for a legacy driver."""
    return [
        kind
        for kind, row in device_types().items()
        if bus in row.transports
        and row.served_by == "in-qemu"
        and row.legacy
        and row.config_layout not in ("", "8s")
        and not row.config_layout.startswith("<")
    ]


def read(kind: str, *transports: Transport) -> list[ConfigReading]:
    row = device_types()[kind]
    size = config.size(row.config_layout)
    readings: list[ConfigReading] = []
    for turn, transport in enumerate(transports):
        readings += ConfigReader(transport, turn, size, mask(row.accepts)).run()
    return readings


@pytest.mark.parametrize("kind", kinds("mmio"))
def test_modern_driver_reads_little_endian_on_mmio(big_endian: BigEndian, kind: str) -> None:
    device = reached(big_endian.start(kind, "mmio").qtest, "mmio")
    assert misread(read(kind, device), device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", kinds("pci"))
def test_drivers_of_both_kinds_take_turns_on_pci(big_endian: BigEndian, kind: str) -> None:
    qtest = big_endian.start(kind, "pci").qtest
    turns: list[Interface] = ["modern", "legacy", "modern"]
    drivers = [reached(qtest, "pci", interface) for interface in turns]
    assert misread(read(kind, *drivers), device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize(
    ("bus", "interface"), [("pci", "modern"), ("pci", "legacy"), ("mmio", "modern")]
)
def test_disk_is_served(big_endian: BigEndian, bus: Bus, interface: Interface) -> None:
    """The machine's view is right: rings and requests are in the order of the interface."""
    transport = reached(big_endian.start("virtio-blk", bus).qtest, bus, interface)
    memory = GuestMemory(transport.qtest)
    driver = Driver(transport, memory, LEGACY if interface == "legacy" else None)
    driver.negotiate()
    disk = Blk(driver)
    assert (disk.capacity, disk.read(3)) == (SECTORS, bytes(512))


def test_firmware_does_not_decide_for_the_operating_system(big_endian: BigEndian) -> None:
    """A machine reset forgets what the driver before used, also if nobody resets the device."""
    machine = big_endian.start("virtio-blk", "pci")
    modern = reached(machine.qtest, "pci")
    assert modern.config_read(0, 8) == SECTORS.to_bytes(8, "little")
    reset_machine(machine)
    legacy = reached(machine.qtest, "pci", "legacy")
    assert legacy.config_read(0, 8) == SECTORS.to_bytes(8, "big")
