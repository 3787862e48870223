"""A q35 in the kernel lab with a vIOMMU, for one device of the kernel after another."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from qap.host.errors import QapError
from qap.hw.acpi_hotplug import BASES, AcpiHotplug
from qap.hw.pci import Bdf, Function
from qap.hw.pci_bus import PciBus
from qap.iommu.driver import Iommu
from qap.iommu.find import find_iommu
from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.machine.catalog import device_types, machine_types, viommus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.spec import Spec
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern

# Served by the kernel's vhost.
KINDS = ("vhost-net", "vhost-vsock", "vhost-scsi")
MACHINE = "q35"
RAM_MIB = 128
RINGS, TABLES = 16 * MIB, 64 * MIB
SIZE = 8 * MIB
# Above 4 GiB, so that it can't be mistaken for a guest physical address.
IOVA = 1 << 32
GONE_S = 10.0


def kernel_device(kind: str, **properties: object) -> Device:
    """A device that a kernel serves, as -device takes it.

    Args:
        kind: a name of configs/devices.toml.
    """
    row = device_types()[kind]
    place: Mapping[str, object] = machine_types()[MACHINE].place
    return {"driver": row.driver("pci"), "id": kind, **place, **row.properties, **properties}


def at_start(kind: str, **properties: object) -> Device:
    """Such a device on the root bus, without a legacy interface."""
    return kernel_device(kind, **{"bus": "pcie.0", "disable-legacy": "on", **properties})


def virtio_functions(bus: PciBus) -> list[Function]:
    """The virtio devices of a machine."""
    return [function for function in bus.scan() if function.vendor_id == VENDOR_ID]


def bench_spec(
    kinds: Sequence[str], viommu: str, devices: Sequence[Device] = (), *, late: bool = False
) -> Spec:
    """A q35 that devices of these types can be plugged into.

    Args:
        devices: that it has at its start.
        late: the vIOMMU comes after them on the command line.
    """
    port, asked = machine_types()[MACHINE].ports, viommus()[viommu].device
    iommu = [dict(asked)] if asked else []
    ordered = [*port, *devices, *iommu] if late else [*iommu, *port, *devices]
    args = [word for kind in kinds for word in device_types()[kind].args]
    return Spec(MACHINE, "qtest", memory=RAM_MIB, devices=ordered, extra=args, qtest=True)


@dataclass
class L2Bench:
    """Such a machine, running. Use as a context manager.

    Args:
        viommu: a name of configs/viommus.toml.
    """

    l1: L1
    viommu: str
    machine: L2 = field(init=False)
    _bus: PciBus = field(init=False)
    _besides: list[Bdf] = field(init=False)
    _function: Function | None = field(init=False, default=None)
    _owned: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        spec = bench_spec([], self.viommu)
        binary = self.l1.build.path("qemu-system-x86_64")
        self.machine = self._owned.enter_context(L2(binary, spec, l1=self.l1))
        self._bus = PciBus(self.machine.qtest)
        self._besides = [function.bdf for function in self._bus.scan()]
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    @property
    def translated(self) -> bool:
        return viommus()[self.viommu].device is not None

    def unplug(self, name: str) -> None:
        """Unplug a device, as a guest that agrees.

        Raises:
            TimeoutError: it is still there.
        """
        self.machine.qmp.execute("device_del", id=name)
        AcpiHotplug(self.machine.qtest, BASES[MACHINE]).eject()
        self.machine.qmp.wait_event(
            "DEVICE_DELETED", lambda data: data.get("device") == name, GONE_S
        )

    @contextmanager
    def plugged(self, kind: str, **properties: object) -> Iterator[Function]:
        """A device of the kernel, hot-plugged until the context ends.

        Raises:
            QmpRefused: QEMU refused it.
        """
        with self._netdev(kind):
            self.machine.plug(kernel_device(kind, **properties))
            try:
                yield self._found()
            finally:
                if self.machine.process.alive:
                    self.unplug(kind)

    @contextmanager
    def _netdev(self, kind: str) -> Iterator[None]:
        """What is in front of its tap, which one QEMU at a time can have."""
        tap = [value for value in device_types()[kind].args if value.startswith("tap,")]
        for value in tap:
            if said := self.machine.qmp.hmp(f"netdev_add {value}"):
                raise QapError(said)
        try:
            yield
        finally:
            if tap and self.machine.process.alive:
                name = device_types()[kind].properties["netdev"]
                self.machine.qmp.execute("netdev_del", id=name)

    def _found(self) -> Function:
        """The device; it is searched for once and later expected at the same address."""
        if self._function is None or self._function.vendor_id != VENDOR_ID:
            (self._function,) = [
                function
                for function in virtio_functions(self._bus)
                if function.bdf not in self._besides
            ]
        return self._function

    @contextmanager
    def driver(self, function: Function, *, mapped: bool) -> Iterator[Driver]:
        """A driver for a device, which has been reset when the context ends.

        Args:
            mapped: its memory is at I/O virtual addresses, if the machine has an IOMMU.
        """
        qtest = self.machine.qtest
        transport = PciModern(function)
        iommu = self.iommu if mapped else None
        memory = GuestMemory(qtest, RINGS, SIZE, iova=IOVA if iommu else None)
        if iommu:
            iommu.attach(function.bdf)
            iommu.map_memory(function.bdf, memory)
            iommu.enable()
        try:
            yield Driver(transport, memory)
        finally:
            if self.machine.process.alive:
                transport.reset()
                if iommu:
                    iommu.detach(function.bdf)
                    iommu.disable()

    @cached_property
    def iommu(self) -> Iommu | None:
        """The driver of its vIOMMU, if it has one."""
        if not self.translated:
            return None
        return find_iommu(self._bus, GuestMemory(self.machine.qtest, TABLES, SIZE))
