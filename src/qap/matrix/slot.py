"""Where a device under test is, and the transports by which a driver reaches it there."""

from abc import ABC, abstractmethod

from qap.host.errors import QapError
from qap.hw.pci import Bdf, Function
from qap.hw.pci_bus import PciBus
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.machine import Machine
from qap.machine.qtest import Qtest
from qap.matrix.setup import Setup
from qap.virtio.ccw import VirtioCcw
from qap.virtio.mmio import Mmio, mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport

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

    def follow(self, machine: Machine) -> None:
        """Go on at another QEMU, which the VM has moved to with all its state.

        The QTest session goes along by itself.
        """
        if self._cpu:
            self._cpu.move(machine.serial)

    @abstractmethod
    def transport(self, *, legacy: bool) -> Transport:
        """The way to the device, by its legacy interface or by the modern one.

        Raises:
            QapError: it has no such interface.
        """


class PciSlot(Slot):
    """A PCI slot; a device is looked for once and then expected there again."""

    def __init__(self, config: Setup, qtest: Qtest) -> None:
        self.bus = PciBus(qtest)
        self._function: Function | None = None
        self._transports: dict[bool, Transport] = {}
        self._name = config.device
        self._besides = [one.bdf for one in self.bus.scan()] if config.plug == "hot" else []

    def appeared(self, config: Setup) -> None:
        if self._function is not None and self._function.vendor_id == VENDOR_ID:
            self.bdf = self._function.bdf
            return
        assert self.bus is not None
        found = [
            one
            for one in self.bus.scan()
            if one.vendor_id == VENDOR_ID and one.bdf not in self._besides
        ]
        # The vIOMMU, where it is a virtio device itself, is the one on the root bus at 1e.
        found = [one for one in found if one.bdf.device != VIOMMU_SLOT]
        if len(found) != 1:
            raise QapError(f"{len(found)} virtio functions are on the bus, not one {self._name}")
        self._function = found[0]
        self.bdf = self._function.bdf

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


class MmioSlot(Slot):
    """The virtio-mmio slots of a microvm."""

    def __init__(self, qtest: Qtest) -> None:
        self._qtest = qtest
        self._found: Mmio | None = None

    def appeared(self, config: Setup) -> None:
        self._found = next(iter(mmio_slots(self._qtest)), None)
        if self._found is None:
            raise QapError("no virtio-mmio slot is occupied")

    def vanished(self) -> None:
        self._found = None

    def transport(self, *, legacy: bool) -> Transport:
        assert self._found is not None
        if self._found.legacy != legacy:
            raise QapError(f"the virtio-mmio device is {'modern' if legacy else 'legacy'}")
        return self._found


class CcwSlot(Slot):
    """A channel subsystem with one virtio device."""

    def __init__(self, qtest: Qtest, machine: Machine) -> None:
        self._cpu = Cpu(qtest, machine.serial)
        self._subsystem = ChannelSubsystem(self._cpu)
        self._revision = 0

    def appeared(self, config: Setup) -> None:
        found = self._subsystem.scan()
        if len(found) != 1:
            raise QapError(f"{len(found)} subchannels have a virtio device, not one")
        (self._subchannel,) = found
        self._subchannel.enable()
        self._revision = CCW_REVISIONS[config.interface]

    def vanished(self) -> None:
        del self._subchannel

    def transport(self, *, legacy: bool) -> Transport:
        return VirtioCcw(self._subchannel, 0 if legacy else self._revision)


def slot_for(config: Setup, qtest: Qtest, machine: Machine) -> Slot:
    """The place where the config's device goes.

    Args:
        qtest: the session by which it is driven.
        machine: which it is on now.
    """
    transport = config.machine_row.transport
    if transport == "pci":
        return PciSlot(config, qtest)
    return MmioSlot(qtest) if transport == "mmio" else CcwSlot(qtest, machine)
