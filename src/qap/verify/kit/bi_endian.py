"""A machine whose guests choose their byte order, with virtio-mmio of both versions and PCI: arm's.

It is of the build profile bi-endian. Drivers in Python use its CPU: `qap.hw.arm_cpu`.
"""

from dataclasses import dataclass, replace

from qap.fork.build import Build
from qap.hw.arm_cpu import GuestsCpu, Order, kernel_option
from qap.hw.pci import Window, Windows
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.qtest_pc_view import HostBridge, PcView
from qap.machine.spec import Spec
from qap.oracle.config import Interface
from qap.verify.kit.big_endian import Bus
from qap.verify.kit.lab import Lab
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport

PROFILE = "bi-endian"
EMULATOR = "qemu-system-arm"
MACHINE = "virt,highmem=off"
CPU = "cortex-a15"
RAM_MIB = 128
# QEMU's hw/arm/virt.c: the slots of virtio-mmio, and the spaces of PCI.
SLOTS = (0x0A00_0000, 32, 0x200)
# RAM begins at 1 GiB; this is free, below where `qap.hw.arm_cpu` takes its commands.
MEMORY, MEMORY_SIZE = 0x4100_0000, 16 * MIB
BRIDGE = HostBridge(ports=0x3EFF_0000, ecam=0x3F00_0000)


def _windows() -> Windows:
    return Windows(
        Window(0x1000_0000, 0x2000_0000), Window(0x2000_0000, 0x3000_0000), Window(0x1000, 0x1_0000)
    )


@dataclass(frozen=True)
class BiEndianMachine:
    """A machine that runs, with one device.

    Attributes:
        cpu: a session by which its guest accesses memory; its order may be changed.
        bus: where the device is.
    """

    cpu: GuestsCpu
    bus: Bus

    @property
    def memory(self) -> GuestMemory:
        """Memory for queues and buffers; all of it is free."""
        return GuestMemory(self.cpu.session, MEMORY, MEMORY_SIZE)

    def reached(self, interface: Interface, order: Order) -> Transport:
        """The device, by one of its interfaces, for a guest of this order from now on.

        Args:
            interface: on MMIO, the one that the machine was started with.
        """
        self.cpu.order = order
        # To a guest that is little-endian, registers are as on a PC; to any other, swapped.
        view = PcView(self.cpu, BRIDGE, swapped=order == "big")
        if self.bus == "mmio":
            (device,) = mmio_slots(view, *SLOTS)
            assert device.legacy == (interface == "legacy")
            return device
        function = PciBus(view, _windows()).find(VENDOR_ID)
        return PciLegacy(function) if interface == "legacy" else PciModern(function)


@dataclass(frozen=True)
class BiEndian:
    """Starts the machines of a lab, of the profile bi-endian instead of the lab's own.

    Args:
        lab: ends the machines.
    """

    lab: Lab

    def build(self) -> Build:
        """The build under test.

        Raises:
            MissingError: it is not there.
        """
        build = Build(PROFILE, is_base=self.lab.build.is_base)
        build.path(EMULATOR)
        return build

    def start(self, kind: str, bus: Bus, interface: Interface = "modern") -> BiEndianMachine:
        """A machine with one device, which has both interfaces if it is on PCI.

        Args:
            kind: its type, a name of configs/devices.toml, with back-ends in QEMU only.
            interface: on MMIO, the only one that it has.
        Raises:
            MissingError: QEMU is not built.
        """
        row = device_types()[kind]
        shown = {"disable-legacy": "off"} if bus == "pci" else {}
        device = {"driver": row.driver(bus), **row.properties, **shown}
        legacy = "on" if interface == "legacy" else "off"
        extra = [
            *(arg.format(folder=self.lab.folder) for arg in row.args),
            *("-global", f"virtio-mmio.force-legacy={legacy}"),
            *kernel_option(self.lab.folder),
        ]
        spec = Spec(
            MACHINE,
            accel="tcg",
            cpu=CPU,
            memory=RAM_MIB,
            devices=[device],
            extra=extra,
            qtest=True,
        )
        machine = replace(self.lab, build=self.build()).start(EMULATOR, spec)
        return BiEndianMachine(GuestsCpu(machine.qtest, "little"), bus)
