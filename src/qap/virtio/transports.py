"""The variants of each virtio transport, with a machine for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qap.host.paths import cache
from qap.hw import s390x_stub
from qap.hw.pci_bus import PciBus
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.virtio.ccw import VirtioCcw
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport, VirtioError

RAM_MIB = 128


@dataclass(frozen=True)
class TransportVariant:
    """A variant of a transport, and a machine that has it.

    Attributes:
        emulator: the QEMU program for the machine.
        machine, accel, cpu: as in Spec.
        suffix: end of the names of the transport's device types.
        connect: finds the machine's only virtio device.
        properties: of the device, for this transport.
        extra: as in Spec.
    """

    emulator: str
    machine: str
    suffix: str
    connect: Callable[[Machine], Transport]
    properties: Mapping[str, Any] = field(default_factory=dict)
    extra: Sequence[str] = ()
    accel: str = "qtest"
    cpu: str | None = None

    def spec(self, kind: str, blockdevs: Sequence[str] = (), **properties: object) -> Spec:
        """A machine with one device, "dut".

        Args:
            kind: its type without the transport, such as "virtio-rng".
            properties: of the device, on every transport.
        """
        device = {"driver": f"{kind}-{self.suffix}", "id": "dut", **self.properties, **properties}
        stub = s390x_stub.kernel_option(cache()) if self.suffix == "ccw" else []
        return Spec(
            machine=self.machine,
            accel=self.accel,
            cpu=self.cpu,
            memory=RAM_MIB,
            devices=[device],
            blockdevs=blockdevs,
            extra=[*self.extra, *stub],
            qtest=True,
        )


def _pci_modern(machine: Machine) -> Transport:
    return PciModern(PciBus(machine.qtest).find(VENDOR_ID))


def _pci_legacy(machine: Machine) -> Transport:
    return PciLegacy(PciBus(machine.qtest).find(VENDOR_ID))


def _mmio(machine: Machine) -> Transport:
    slots = mmio_slots(machine.qtest)
    if len(slots) != 1:
        raise VirtioError(f"{len(slots)} virtio-mmio slots are taken, not one")
    return slots[0]


def _ccw(revision: int) -> Callable[[Machine], Transport]:
    def connect(machine: Machine) -> Transport:
        subchannels = ChannelSubsystem(Cpu(machine.qtest, machine.serial)).scan()
        if len(subchannels) != 1:
            raise VirtioError(f"{len(subchannels)} subchannels have a device, not one")
        subchannels[0].enable()
        return VirtioCcw(subchannels[0], revision)

    return connect


_X86 = "qemu-system-x86_64"
_S390X = ("qemu-system-s390x", "s390-ccw-virtio", "ccw")
_PCI_MODERN = {"disable-legacy": "on"}
_PCI_LEGACY = {"disable-legacy": "off"}
_MMIO_1 = ("-global", "virtio-mmio.force-legacy=true")
_MMIO_2 = ("-global", "virtio-mmio.force-legacy=false")
TRANSPORTS = {
    "pci modern": TransportVariant(_X86, "q35", "pci", _pci_modern, _PCI_MODERN),
    "pci legacy": TransportVariant(_X86, "pc", "pci", _pci_legacy, _PCI_LEGACY),
    "mmio 1": TransportVariant(_X86, "microvm", "device", _mmio, extra=_MMIO_1),
    "mmio 2": TransportVariant(_X86, "microvm", "device", _mmio, extra=_MMIO_2),
    "ccw 0": TransportVariant(*_S390X, _ccw(0), accel="tcg", cpu="max"),
    "ccw 1": TransportVariant(*_S390X, _ccw(1), accel="tcg", cpu="max"),
    "ccw 2": TransportVariant(*_S390X, _ccw(2), accel="tcg", cpu="max"),
}
