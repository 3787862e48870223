"""The same on a big-endian machine with virtio-mmio, and with PCI behind memory-mapped registers.

It is or1k's virt, of the build profile big-endian.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.hw.pci import Window, Windows
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.guest_memory import GuestMemory
from qap.machine.qtest_pc_view import HostBridge, PcView
from qap.machine.spec import Spec
from qap.matrix.config_reading import ConfigReader, ConfigReading, misread
from qap.oracle import config
from qap.oracle.config import Interface
from qap.oracle.features import mask
from qap.verify.kit.lab import Lab
from qap.virtio.blk import Blk
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport

Bus = Literal["pci", "mmio"]
PROFILE = "big-endian"
EMULATOR = "qemu-system-or1k"
# QEMU's hw/openrisc/virt.c: the slots of virtio-mmio, and the spaces of PCI.
SLOTS = (0x9700_0000, 8, 0x1000)
BRIDGE = HostBridge(ports=0x9F00_0000, ecam=0x9E00_0000)
SECTORS = 2048
LEGACY = Behaviour(0, sets_features_ok=False)


def windows() -> Windows:
    return Windows(
        Window(0xA000_0000, 0xA800_0000), Window(0xA800_0000, 0xB000_0000), Window(0x1000, 0x1_0000)
    )


def kinds(transport: Bus) -> list[str]:
    """Types in QEMU itself whose configuration is in the guest's order for a legacy driver."""
    return [
        kind
        for kind, row in device_types().items()
        if transport in row.transports
        and row.served_by == "in-qemu"
        and row.legacy
        and row.config_layout not in ("", "8s")
        and not row.config_layout.startswith("<")
    ]


Start = Callable[[str, Bus], PcView]


@pytest.fixture
def start(lab: Lab) -> Start:
    """Starts a machine with a device of a type on MMIO or PCI; returns a view of it."""
    build = Build(PROFILE, is_base=lab.build.is_base)
    try:
        build.path(EMULATOR)
    except MissingError as missing:
        pytest.skip(str(missing))

    def started(kind: str, transport: Bus) -> PcView:
        row = device_types()[kind]
        shown = {"disable-legacy": "off"} if transport == "pci" else {}
        device = {"driver": row.driver(transport), **row.properties, **shown}
        extra = [arg.format(folder=lab.folder) for arg in row.args]
        spec = Spec("virt", memory=128, devices=[device], extra=extra, qtest=True)
        machine = replace(lab, build=build).start(EMULATOR, spec)
        return PcView(machine.qtest, BRIDGE)

    return started


def reached(view: PcView, interface: Interface) -> Transport:
    """The machine's only virtio-pci device, by one of its interfaces."""
    function = PciBus(view, windows()).find(VENDOR_ID)
    return PciLegacy(function) if interface == "legacy" else PciModern(function)


def read(kind: str, *transports: Transport) -> list[ConfigReading]:
    row = device_types()[kind]
    size = config.size(row.config_layout)
    readings: list[ConfigReading] = []
    for turn, transport in enumerate(transports):
        readings += ConfigReader(transport, turn, size, mask(row.accepts)).run()
    return readings


@pytest.mark.parametrize("kind", kinds("mmio"))
def test_modern_driver_reads_little_endian_on_mmio(start: Start, kind: str) -> None:
    (device,) = mmio_slots(start(kind, "mmio"), *SLOTS)
    assert misread(read(kind, device), device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", kinds("pci"))
def test_drivers_of_both_kinds_take_turns_on_pci(start: Start, kind: str) -> None:
    view = start(kind, "pci")
    drivers = [reached(view, interface) for interface in ("modern", "legacy", "modern")]
    assert misread(read(kind, *drivers), device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("interface", ["modern", "legacy"])
def test_disk_is_served_on_pci(start: Start, interface: Interface) -> None:
    """The machine's view is right: rings and requests are in the order of the interface."""
    transport = reached(start("virtio-blk", "pci"), interface)
    memory = GuestMemory(transport.qtest)
    driver = Driver(transport, memory, LEGACY if interface == "legacy" else None)
    driver.negotiate()
    disk = Blk(driver)
    assert (disk.capacity, disk.read(3)) == (SECTORS, bytes(512))


def test_disk_is_served_on_mmio(start: Start) -> None:
    (device,) = mmio_slots(start("virtio-blk", "mmio"), *SLOTS)
    driver = Driver(device, GuestMemory(device.qtest))
    driver.negotiate()
    disk = Blk(driver)
    assert (disk.capacity, disk.read(3)) == (SECTORS, bytes(512))
