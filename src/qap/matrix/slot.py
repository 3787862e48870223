"""Where a device under test is, and the transports by which a driver reaches it there."""

from abc import ABC, abstractmethod

from qap.host.errors import QapError
from qap.hw.pci import Bdf, Function
from qap.hw.pci_bus import PciBus
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.hw.zpci import ZpciFunction, zpci_functions
from qap.iommu.ats import enable_ats
from qap.iommu.driver import Iommu
from qap.iommu.vtd import Vtd
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.machine.qtest import Qtest
from qap.matrix.setup import Setup
from qap.virtio.ccw import VirtioCcw
from qap.virtio.mmio import Mmio, mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport
from qap.virtio.zpci import VirtioZpci

CCW_REVISIONS = {"revision-2": 2, "revision-1": 1, "revision-0": 0}


class Slot(ABC):
    """A slot of a machine.

    Attributes:
        bus: the PCI buses, where there are any.
        bdf: of the device, where it is a PCI function.
    """

    bus: PciBus | None = None
    bdf: Bdf | None = None
    _cpu: Cpu | None = None

    @abstractmethod
    def appeared(self, config: Setup) -> None:
        """A device was plugged: find it.

        Raises:
            QapError: there is none.
        """

    @abstractmethod
    def vanished(self) -> None:
        """The device was unplugged: forget it."""

    def let_go(self) -> None:  # noqa: B027 - most guests have nothing to do
        """Do what QEMU waits for until it takes the device away, if that is anything."""

    def map_memory(self, tables: GuestMemory, mapped: GuestMemory) -> None:
        """Let the device reach memory at its IOVAs, where the slot itself translates.

        Args:
            tables: for the translation's tables.
        """
        raise QapError("the slot has no IOMMU of its own")

    def use_ats(self, iommu: Iommu) -> None:
        """Let the device use its address translation service.

        Raises:
            QapError: it has none, or the IOMMU lets no device use one.
        """
        raise QapError("only PCI Express has an address translation service")

    def follow(self, machine: Machine) -> None:
        """Use another QEMU, to which the VM has migrated.

        The QTest session is a MovingQtest, which the testbed moves.
        """
        if self._cpu:
            self._cpu.move(machine.serial)

    @abstractmethod
    def transport(self, *, legacy: bool) -> Transport:
        """The transport to the device, for its legacy or its modern interface.

        Raises:
            QapError: it has no such interface.
        """


class PciSlot(Slot):
    """A PCI slot; a device is searched for once and later expected at the same address."""

    def __init__(self, config: Setup, qtest: Qtest) -> None:
        self.bus = PciBus(qtest, roots=config.roots)
        self._function: Function | None = None
        self._transports: dict[bool, Transport] = {}
        self._name = config.device
        self._besides = (
            [function.bdf for function in self.bus.scan()] if config.plug == "hot" else []
        )

    def appeared(self, config: Setup) -> None:
        if self._function is not None and self._function.vendor_id == VENDOR_ID:
            self.bdf = self._function.bdf
            return
        assert self.bus is not None
        functions = [
            function
            for function in self.bus.scan()
            if function.vendor_id == VENDOR_ID and function.bdf not in self._besides
        ]
        # A vIOMMU that is a virtio device itself is in slot 1e of the root bus.
        functions = [function for function in functions if function.bdf.device != VIOMMU_SLOT]
        if len(functions) != 1:
            raise QapError(
                f"{len(functions)} virtio functions are on the bus, not one {self._name}"
            )
        self._function = functions[0]
        self.bdf = self._function.bdf

    def use_ats(self, iommu: Iommu) -> None:
        assert self.bus is not None
        assert self._function is not None
        if not isinstance(iommu, Vtd):
            raise QapError("no driver here uses device TLBs with another IOMMU than VT-d")
        iommu.use_device_tlb(self._function.bdf)
        bridge = next(one for one in self.bus.scan() if one.bdf == HOST_BRIDGE)
        enable_ats(bridge, self._function)

    def vanished(self) -> None:
        self.bdf = None
        self._transports.clear()

    def transport(self, *, legacy: bool) -> Transport:
        assert self._function is not None
        if legacy not in self._transports:
            kind = PciLegacy if legacy else PciModern
            self._transports[legacy] = kind(self._function)
        return self._transports[legacy]


VIOMMU_SLOT = 0x1E
HOST_BRIDGE = Bdf(0, 0, 0)


class MmioSlot(Slot):
    """The virtio-mmio slots of a microvm."""

    def __init__(self, qtest: Qtest) -> None:
        self._qtest = qtest
        self._device: Mmio | None = None

    def appeared(self, config: Setup) -> None:
        self._device = next(iter(mmio_slots(self._qtest)), None)
        if self._device is None:
            raise QapError("no virtio-mmio slot is occupied")

    def vanished(self) -> None:
        self._device = None

    def transport(self, *, legacy: bool) -> Transport:
        assert self._device is not None
        if self._device.legacy != legacy:
            raise QapError(f"the virtio-mmio device is {'modern' if legacy else 'legacy'}")
        return self._device


class CcwSlot(Slot):
    """A channel subsystem with one virtio device."""

    def __init__(self, qtest: Qtest, machine: Machine) -> None:
        self._cpu = Cpu(qtest, machine.serial)
        self._subsystem = ChannelSubsystem(self._cpu)
        self._revision = 0

    def appeared(self, config: Setup) -> None:
        subchannels = self._subsystem.scan()
        if len(subchannels) != 1:
            raise QapError(f"{len(subchannels)} subchannels have a virtio device, not one")
        (self._subchannel,) = subchannels
        self._subchannel.enable()
        self._revision = CCW_REVISIONS[config.interface]

    def vanished(self) -> None:
        del self._subchannel

    def transport(self, *, legacy: bool) -> Transport:
        return VirtioCcw(self._subchannel, 0 if legacy else self._revision)


class ZpciSlot(Slot):
    """The only PCI function of an s390x machine, which is behind an IOMMU of its own."""

    def __init__(self, qtest: Qtest, machine: Machine) -> None:
        self._cpu = self._one_cpu = Cpu(qtest, machine.serial)
        self._function: ZpciFunction | None = None

    def appeared(self, config: Setup) -> None:
        functions = zpci_functions(self._one_cpu)
        if len(functions) != 1:
            raise QapError(f"{len(functions)} PCI functions are there, not one {config.device}")
        (self._function,) = functions
        if not self._function.enabled:
            self._function.enable()

    def map_memory(self, tables: GuestMemory, mapped: GuestMemory) -> None:
        assert self._function is not None
        assert mapped.iova is not None
        self._function.translate(tables, mapped.iova, mapped.base, mapped.size)

    def let_go(self) -> None:
        assert self._function is not None
        self._function.deconfigure()

    def vanished(self) -> None:
        self._function = None

    def transport(self, *, legacy: bool) -> Transport:
        assert self._function is not None
        return VirtioZpci(self._function, legacy=legacy)


def slot_for(config: Setup, qtest: Qtest, machine: Machine) -> Slot:
    """The slot that the config's device is plugged into.

    Args:
        qtest: the session by which it is driven.
        machine: the one that has the slot now.
    """
    transport = config.machine_row.transport
    if transport == "pci":
        is_zpci = config.machine_row.translates
        return ZpciSlot(qtest, machine) if is_zpci else PciSlot(config, qtest)
    return MmioSlot(qtest) if transport == "mmio" else CcwSlot(qtest, machine)
