"""The variants of each virtio transport, with a machine for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qap.host.paths import cache
from qap.hw import s390x_stub
from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.catalog import Interface, machine_types
from qap.machine.device import Device
from qap.machine.device_type import SUFFIX
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.virtio.ccw import VirtioCcw
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport, VirtioError

RAM_MIB = 128


@dataclass(frozen=True)
class Beside:
    """What a machine has beside its device under test.

    Attributes:
        bus: a device with an "id", such as a root port, that the one under test is behind.
        devices: that come after it.
        chardevs, extra: as in Spec.
    """

    bus: Device | None = None
    devices: Sequence[Device] = ()
    chardevs: Sequence[str] = ()
    extra: Sequence[str] = ()


ALONE = Beside()


@dataclass(frozen=True)
class TransportVariant:
    """A variant of a transport, and a machine that has it.

    Attributes:
        emulator: the QEMU program for the machine.
        machine, accel, cpu: as in Spec.
        suffix: end of the names of the transport's device types.
        connect_all: finds the machine's virtio devices, in the order of their addresses.
        properties: of the device, for this transport.
        extra: as in Spec.
    """

    emulator: str
    machine: str
    suffix: str
    connect_all: Callable[[Machine], list[Transport]]
    properties: Mapping[str, Any] = field(default_factory=dict)
    extra: Sequence[str] = ()
    accel: str = "qtest"
    cpu: str | None = None

    def spec(
        self,
        kind: str,
        blockdevs: Sequence[str] = (),
        beside: Beside = ALONE,
        /,
        **properties: object,
    ) -> Spec:
        """A machine with one device, "dut".

        Args:
            kind: its type without the transport, such as "virtio-rng".
            beside: what else the machine has.
            properties: of the device, on every transport.
        """
        device = {"driver": f"{kind}-{self.suffix}", "id": "dut", **self.properties, **properties}
        before = []
        if beside.bus:
            device["bus"] = beside.bus["id"]
            before.append(beside.bus)
        stub = s390x_stub.kernel_option(cache()) if self.suffix == "ccw" else []
        return Spec(
            machine=self.machine,
            accel=self.accel,
            cpu=self.cpu,
            memory=RAM_MIB,
            devices=[*before, device, *beside.devices],
            chardevs=beside.chardevs,
            blockdevs=blockdevs,
            extra=[*self.extra, *beside.extra, *stub],
            qtest=True,
        )

    def connect(self, machine: Machine) -> Transport:
        """The machine's only virtio device.

        Raises:
            VirtioError: there is none, or more than one.
        """
        found = self.connect_all(machine)
        if len(found) != 1:
            raise VirtioError(f"the machine has {len(found)} virtio devices, not one")
        return found[0]


def _functions(machine: Machine) -> list[Function]:
    functions = PciBus(machine.qtest).scan()
    return [function for function in functions if function.vendor_id == VENDOR_ID]


def _pci_modern(machine: Machine) -> list[Transport]:
    return [PciModern(function) for function in _functions(machine)]


def _pci_legacy(machine: Machine) -> list[Transport]:
    return [PciLegacy(function) for function in _functions(machine)]


def _mmio(machine: Machine) -> list[Transport]:
    return list(mmio_slots(machine.qtest))


def _ccw(revision: int) -> Callable[[Machine], list[Transport]]:
    def connect_all(machine: Machine) -> list[Transport]:
        subchannels = ChannelSubsystem(Cpu(machine.qtest, machine.serial)).scan()
        for subchannel in subchannels:
            subchannel.enable()
        return [VirtioCcw(subchannel, revision) for subchannel in subchannels]

    return connect_all


def _variant(
    machine: str, connect_all: Callable[[Machine], list[Transport]], interface: str = ""
) -> TransportVariant:
    """A variant as configs/machines.toml has it.

    Args:
        interface: how the device shows itself; as it does by default if "".
    """
    kind = machine_types()[machine]
    shown = kind.interface[interface] if interface else Interface()
    return TransportVariant(
        f"qemu-system-{kind.qemu}",
        machine,
        SUFFIX[kind.transport],
        connect_all,
        shown.properties,
        shown.args,
        kind.accel,
        kind.cpu,
    )


TRANSPORTS = {
    "pci modern": _variant("q35", _pci_modern, "modern"),
    "pci legacy": _variant("pc", _pci_legacy, "transitional"),
    "mmio 1": _variant("microvm", _mmio, "version-1"),
    "mmio 2": _variant("microvm", _mmio, "version-2"),
    # The driver chooses the revision.
    "ccw 0": _variant("s390-ccw-virtio", _ccw(0)),
    "ccw 1": _variant("s390-ccw-virtio", _ccw(1)),
    "ccw 2": _variant("s390-ccw-virtio", _ccw(2)),
}
