"""A big-endian machine with virtio-mmio and PCI, for drivers in Python: or1k's virt.

It is of the build profile big-endian.
"""

from dataclasses import dataclass, replace
from typing import Literal

from qap.fork.build import Build
from qap.hw.pci import Window, Windows
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.machine import Machine
from qap.machine.qtest import Qtest
from qap.machine.qtest_pc_view import HostBridge, PcView
from qap.machine.spec import Spec
from qap.oracle.config import Interface
from qap.verify.kit.lab import Lab
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport

Bus = Literal["pci", "mmio"]
PROFILE = "big-endian"
EMULATOR = "qemu-system-or1k"
RAM_MIB = 128
# QEMU's hw/openrisc/virt.c: the slots of virtio-mmio, and the spaces of PCI.
SLOTS = (0x9700_0000, 8, 0x1000)
BRIDGE = HostBridge(ports=0x9F00_0000, ecam=0x9E00_0000)


def _windows() -> Windows:
    return Windows(
        Window(0xA000_0000, 0xA800_0000), Window(0xA800_0000, 0xB000_0000), Window(0x1000, 0x1_0000)
    )


@dataclass(frozen=True)
class BigEndian:
    """Starts the machines of a lab, of the profile big-endian instead of the lab's own.

    Args:
        lab: ends the machines.
    """

    lab: Lab

    def build(self, *, other: bool = False) -> Build:
        """The build under test, or the other one of fork and base.

        Raises:
            MissingError: it is not there.
        """
        build = Build(PROFILE, is_base=self.lab.build.is_base != other)
        build.path(EMULATOR)
        return build

    def start(self, kind: str, bus: Bus, *options: str, other: bool = False) -> Machine:
        """A machine with one device, which has a legacy interface, too, if it is on PCI.

        Args:
            kind: its type, a name of configs/devices.toml, with back-ends in QEMU only.
            options: more of the command line.
            other: the other one of fork and base.
        Raises:
            MissingError: it is not built.
        """
        row = device_types()[kind]
        shown = {"disable-legacy": "off"} if bus == "pci" else {}
        device = {"driver": row.driver(bus), **row.properties, **shown}
        extra = [*(arg.format(folder=self.lab.folder) for arg in row.args), *options]
        spec = Spec("virt", memory=RAM_MIB, devices=[device], extra=extra, qtest=True)
        return replace(self.lab, build=self.build(other=other)).start(EMULATOR, spec)


def reached(session: Qtest, bus: Bus, interface: Interface = "modern") -> Transport:
    """The machine's only virtio device, by one of its interfaces.

    Args:
        session: with the machine.
        interface: on PCI; on MMIO there is the modern one only.
    """
    view = PcView(session, BRIDGE)
    if bus == "mmio":
        (device,) = mmio_slots(view, *SLOTS)
        return device
    function = PciBus(view, _windows()).find(VENDOR_ID)
    return PciLegacy(function) if interface == "legacy" else PciModern(function)
