"""The PCI buses of a machine, and which of them an IOMMU translates."""

from dataclasses import dataclass

from qap.explain.command import Command, Item
from qap.explain.knowledge import BusKind, knowledge
from qap.explain.machine_type import Machine
from qap.explain.opts import boolean


@dataclass(frozen=True)
class Bus:
    """A PCI bus.

    Attributes:
        express: it is PCI Express.
        is_root: it is a root bus: the machine's, or a pxb's.
        parent: the bus that its bridge is on; None for the machine's root bus.
        bridges_only: QEMU takes nothing else on it; what it says of other devices.
        to_pci: its bridge is one from PCI Express to PCI, with an address of its own.
        bypass: of a root bus: it bypasses the IOMMU.
    """

    name: str
    express: bool
    is_root: bool = False
    parent: "Bus | None" = None
    to_pci: bool = False
    bypass: bool = False
    bridges_only: str = ""

    @property
    def is_port(self) -> bool:
        """Whether a device on it is one behind a PCI Express port."""
        return self.express and not self.is_root

    @property
    def root(self) -> "Bus":
        """The root bus that it is below."""
        return self if self.is_root or self.parent is None else self.parent.root


@dataclass(frozen=True)
class Translation:
    """Whether addresses of a device are translated, and why; None if that is not known."""

    translated: bool | None
    why: str


class Buses:
    """The buses of a machine, made from its bridges.

    Attributes:
        iommus: what translates the machine's root bus, as people call it.
    """

    def __init__(self, command: Command, machine: Machine) -> None:
        self.machine = machine
        self.iommus: list[str] = [machine.iommu] if machine.iommu else []
        self._command = command
        self._buses: dict[str, Bus] = {}
        row = machine.row
        if row and machine.root:
            root = Bus(machine.root, row.express, is_root=True, bypass=machine.bypass)
            self._buses[root.name] = root
        # Where QEMU puts a device that does not say: it looks at a pxb first, the last one.
        self._unsaid = self.root
        self._places: dict[int, Bus | None] = {}
        for item in command.devices:
            self._take(item)

    @property
    def root(self) -> Bus | None:
        """The machine's root bus, if it has PCI."""
        return self._buses.get(self.machine.root)

    def _take(self, item: Item) -> None:
        driver = item.opts.get("driver")
        name = item.opts.get("bus")
        place = self._places[id(item)] = self._buses.get(name) if name else self._unsaid
        if driver in knowledge().iommu and not item.hot:
            self._take_iommu(driver, place)
        kind = knowledge().bus.get(driver)
        if kind and place and (item.id or kind == "root"):
            self._add(item, driver, kind, place)

    def _take_iommu(self, driver: str, place: Bus | None) -> None:
        row = self.machine.row
        if row and driver not in row.iommus:
            self._command.left.append(f"{driver}: a machine {self.machine.type} does not take it")
        elif place and place.bridges_only and driver.startswith("virtio-"):
            self._command.left.append(f"{driver}: QEMU puts it on {place.name}, and refuses it")
        else:
            self.iommus.append(driver)

    def _add(self, item: Item, driver: str, kind: BusKind, parent: Bus) -> None:
        name = item.id or f"{driver} without an id"
        bypass = bool(boolean(item.opts.get("bypass_iommu")))
        only = f"Only PCI/PCIe bridges can be plugged into {driver}"
        if driver == "pxb":
            inner = Bus(
                f"pxb-internal of {name}", False, True, parent, bypass=bypass, bridges_only=only
            )
            self._buses[name] = Bus(name, False, parent=inner)
            self._unsaid = inner
        elif kind == "root":
            self._unsaid = self._buses[name] = Bus(
                name, True, True, parent, bypass=bypass, bridges_only=only
            )
        else:
            self._buses[name] = Bus(name, kind == "port", False, parent, kind == "to_pci")

    def of(self, item: Item) -> Bus | None:
        """The bus that a PCI device is plugged into; None if it isn't known."""
        return self._places.get(id(item))

    def translation(self, bus: Bus | None) -> Translation:
        """Whether addresses of a device on a bus are translated.

        As pci_device_get_iommu_bus_devfn() finds it: from the device's bus upward to the one
        that an IOMMU is set up for, where a device behind conventional PCI is taken for one on
        the bus of its bridge. Then the root bus of the place that it is taken to be at decides
        on the bypass.
        """
        if self.machine.row is None:
            return Translation(None, f"the buses of {self.machine.type} are not known")
        if bus is None:
            return Translation(None, "its bus is not known")
        if not self.iommus:
            return Translation(False, "no IOMMU on this machine")
        seen, place = bus, bus
        while seen.parent is not None:
            if not seen.express:
                place = seen if seen.to_pci else seen.parent
            seen = seen.parent
        iommu = self.iommus[-1]
        if place.root.bypass:
            how = (
                "default-bus-bypass-iommu=on"
                if place.root is self.root
                else f"bypass_iommu=on of {place.root.name}"
            )
            return Translation(False, f"its root bus bypasses {iommu}: {how}")
        if iommu == self.machine.iommu and self.machine.row.translates:
            return Translation(True, iommu)
        return Translation(True, f"its bus {bus.name} is behind {iommu}")
