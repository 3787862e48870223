"""What becomes of a virtio device on stock QEMU and on the fork, by the fence table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qap.explain.backend import Backend, Kind, Told, backend
from qap.explain.buses import Buses, Translation
from qap.explain.command import Command, Item
from qap.explain.device_types import VirtioType, virtio_type
from qap.explain.facts import Facts, Verdict, remarks
from qap.explain.interface import Interface, interface
from qap.explain.machine_type import Machine
from qap.explain.memory import private_memory
from qap.explain.properties import Given, given
from qap.machine.catalog import DeviceType

REQUEST = "iommu_platform"
INSISTS = "x-require-iommu-platform"


@dataclass(frozen=True)
class Prediction:
    """A virtio device and what becomes of it.

    Attributes:
        requested: whether ACCESS_PLATFORM is, and by what.
        private: memory that its back-end would have to map and can't; "" if there is none.
        missing: the build that has no such device: "stock QEMU" or "".
        verdicts: one; more if what isn't known decides.
        remarks: what is odd beside that.
    """

    item: Item
    kind: VirtioType
    family: DeviceType
    bus: str
    interface: Interface
    requested: bool
    requested_by: str
    translation: Translation
    backend: Backend
    private: str
    missing: str
    verdicts: Sequence[Verdict]
    remarks: Sequence[str]

    @property
    def name(self) -> str:
        return self.item.id or self.kind.driver


class Predictor:
    """Predicts for the devices of one command line.

    Args:
        told: what is known of back-ends, by their names.
    """

    def __init__(
        self, command: Command, machine: Machine, buses: Buses, told: Mapping[str, Told]
    ) -> None:
        self._command = command
        self._machine = machine
        self._buses = buses
        self._told = told

    def all(self) -> list[Prediction]:
        """A prediction for each virtio device, in the order of the command line.

        Raises:
            UsageError: QEMU has no such device.
        """
        found = []
        for item in self._command.devices:
            driver = item.opts.get("driver")
            kind = virtio_type(driver, self._machine.target)
            if kind:
                found.append(self._of(item, kind))
            elif driver.startswith(("virtio-", "vhost-")) and not driver.startswith("virtio-mmio"):
                self._command.left.append(f"{driver}: a device that qap does not know")
        return found

    def _of(self, item: Item, kind: VirtioType) -> Prediction:
        command, machine = self._command, self._machine
        family, behind = backend(command, item, kind, self._told)
        bus = self._buses.of(item) if kind.transport == "pci" else None
        if kind.transport == "pci" and bus is None and machine.row:
            where = item.opts.get("bus") or "a PCI bus"
            command.left.append(f"{item.id or kind.driver}: there is no bus {where} that is known")
        translation = (
            self._buses.translation(bus)
            if kind.transport == "pci"
            else Translation(False, f"virtio on {kind.transport.upper()} never does")
        )
        shown = interface(command, item, kind, family, machine, bus)
        said = given(command, item, kind, REQUEST)
        requested = said.on if said else bool(machine.confidential)
        private = private_memory(command, item) if behind.kind is Kind.PROGRAM else ""
        lenient = self._lenient(item, kind)
        iommus = bool(self._buses.iommus)
        facts = Facts(kind, family, shown, requested, behind, lenient, machine, private, iommus)
        return Prediction(
            item,
            kind,
            family,
            bus.name if bus else item.opts.get("bus") or item.opts.get("devno"),
            shown,
            requested,
            _by(said, machine),
            translation,
            behind,
            private,
            "" if kind.transport in family.transports else "stock QEMU",
            facts.verdicts(translation.translated),
            remarks(facts),
        )

    def _lenient(self, item: Item, kind: VirtioType) -> bool:
        said = given(self._command, item, kind, INSISTS)
        return not said.on if said else self._machine.lenient


def _by(said: Given | None, machine: Machine) -> str:
    if said:
        return said.by
    return f"forced by {machine.confidential}" if machine.confidential else "not given"
