"""The catalogue: guests, machine types, vIOMMUs and devices, each described once (configs/)."""

from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from qap.host.errors import unknown_name
from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.machine.device import Device
from qap.machine.device_type import (
    Between,
    Check,
    DeviceType,
    GuestCheck,
    Kernel,
    Probe,
    Property,
    Transport,
    VhostUser,
)

# With what device_type.py describes: other rooms import all of it from here.
__all__ = [
    "DEVICES",
    "GUESTS",
    "MACHINES",
    "VIOMMUS",
    "Between",
    "Check",
    "DeviceType",
    "Guest",
    "GuestCheck",
    "Interface",
    "Kernel",
    "MachineType",
    "Place",
    "Probe",
    "Property",
    "Transport",
    "VhostUser",
    "Viommu",
    "device_types",
    "guest",
    "guests",
    "machine_types",
    "path",
    "plain_types",
    "vhost_user_types",
    "viommus",
]

GUESTS, MACHINES, VIOMMUS, DEVICES = "guests", "machines", "viommus", "devices"


class Guest(Model):
    """A guest that boots a Debian kernel (configs/guests.toml).

    Attributes:
        qemu: the emulator's target, as in qemu-system-TARGET.
        architecture: Debian's name for it.
        suites: the Debian suites that the kernel may come from, the best one first.
        kernel: its package.
        recipe: a folder of configs/kernels/ if the package has the source, to be compiled as the
            folder says; "" if it has the kernel.
        headers: the package of its headers, to compile modules for it; "" if that is not done.
        console: the kernel's name for its console.
        machine: the machine type that boots it unless a scenario names another.
        cpu: QEMU's CPU model.
        memory: RAM in MiB.
        modules: kernel modules to load at every boot, before those of a device.
        append: kernel parameters beside the console's.
        boot_silence: seconds that may pass without anything new on the console while it boots.
    """

    name: str
    qemu: str
    architecture: str
    suites: tuple[str, ...] = Field(min_length=1)
    kernel: str
    recipe: str = ""
    headers: str = ""
    console: str
    machine: str
    cpu: str
    memory: int = 512
    modules: tuple[str, ...] = ()
    append: str = ""
    boot_silence: float


class Viommu(Model):
    """A virtual IOMMU (configs/viommus.toml).

    Attributes:
        append: what the guest's kernel must be told for it.
        modules: kernel modules that drive it.
        newer: properties to set where QEMU has them; see `qap.machine.newer`.
        tells: properties with which it tells a device of each mapping; None if it can't.
        newer_tells: it can where QEMU has all those of `newer`.
        unmigratable: QEMU migrates no VM that has it.
    """

    name: str
    purpose: str
    device: dict[str, Property] | None = None
    append: str = ""
    modules: tuple[str, ...] = ()
    newer: dict[str, Property] = Field(default_factory=dict)
    tells: dict[str, Property] | None = None
    newer_tells: bool = False
    unmigratable: bool = False


class Interface(Model):
    """The interface of a device to its driver, legacy or modern.

    Attributes:
        legacy: "also": it has a legacy interface, too; "only": it has no other; "by-driver": a
            driver that asks for nothing newer gets a legacy interface; "": it has none.
        properties: of the device, where it has both interfaces to choose from.
        args: of QEMU.
    """

    legacy: Literal["", "also", "only", "by-driver"] = ""
    properties: dict[str, Property] = Field(default_factory=dict)
    args: tuple[str, ...] = ()


class Place(Model):
    """Another place for a device than where the machine says.

    Attributes:
        devices: what has to be on the machine for it.
        place: properties of a device that select it.
        modern: as of the machine type.
        own_root: its root bus is not the machine's, and so not one that bypasses the vIOMMU.
        hotplug: why nothing is hot-plugged there; "" if it can be.
    """

    devices: tuple[dict[str, Property], ...] = ()
    place: dict[str, str]
    modern: dict[str, Property] = Field(default_factory=dict)
    own_root: bool = False
    hotplug: str = ""


class MachineType(Model):
    """A machine type and where on it a device goes (configs/machines.toml).

    Attributes:
        type: what -machine calls it, if not by its name.
        qemu: the emulator's target.
        guest: the guest that boots on it unless another is named; "" if none does.
        order: its guests' byte order.
        versioned: the name of an older version of it, with {} for the version; "" if there
            is none.
        accel, cpu: how it runs where a driver in Python drives it.
        acpi: the registers of its ACPI hot-plug (`qap.hw.acpi_hotplug`).
        root: the name of its root bus of PCI.
        port: what the device is plugged into.
        place: properties of a device that select where it is plugged.
        viommus: those with which a guest boots on it.
        behind: other places for a device, by name.
        bypass: it has default-bus-bypass-iommu.
        translates: its bus is behind an IOMMU that can't be left out.
        unmigratable: QEMU migrates no VM that has a device there.
        hotplug: why nothing is plugged into it while it runs; "" if it can be.
        modern: properties that make a transitional device a modern one, in a guest's scenarios.
        modern_args: the same as options of QEMU.
        firmware: what a guest boots with there, if not with what QEMU takes by itself.
        modules: kernel modules without which a guest finds no device there.
        append: what a guest's kernel must be told there.
        interface: the interfaces that a device can have there, by name.
    """

    name: str
    type: str = ""
    qemu: str
    order: Literal["little", "big"] = "little"
    guest: str = ""
    versioned: str = ""
    transport: Transport
    accel: str = "qtest"
    cpu: str | None = None
    acpi: str | None = None
    root: str = ""
    port: dict[str, Property] | None = None
    place: dict[str, str] = Field(default_factory=dict)
    behind: dict[str, Place] = Field(default_factory=dict)
    viommus: tuple[str, ...] = ()
    bypass: bool = False
    translates: bool = False
    unmigratable: bool = False
    hotplug: str = ""
    modern: dict[str, Property] = Field(default_factory=dict)
    modern_args: tuple[str, ...] = ()
    firmware: str = ""
    modules: tuple[str, ...] = ()
    append: str = ""
    interface: dict[str, Interface]

    @property
    def called(self) -> str:
        """What -machine calls it."""
        return self.type or self.name

    @property
    def ports(self) -> list[Device]:
        """What it needs on its command line for a device to be plugged: a root port, or nothing."""
        return self.free_ports(1)

    def free_ports(self, count: int) -> list[Device]:
        """The same for `count` devices: each port is in a slot of its own, and named after it."""
        if self.port is None:
            return []
        return [
            {**self.port, "id": f"port{slot}", "chassis": slot + 1, "slot": slot + 1}
            for slot in range(count)
        ]


M = TypeVar("M", bound=Model)


def path(table: str) -> Path:
    """The file of a table of the catalogue."""
    return data() / f"{table}.toml"


def _named(model: type[M], table: str) -> dict[str, M]:
    file = path(table)
    return {
        name: checked(model, {**row, "name": name}, file, name) for name, row in read(file).items()
    }


@cache
def guests() -> dict[str, Guest]:
    """Every guest by name; raises UsageError where the file is wrong, as all of these do."""
    return _named(Guest, GUESTS)


@cache
def machine_types() -> dict[str, MachineType]:
    """Every machine type by name."""
    return _named(MachineType, MACHINES)


@cache
def viommus() -> dict[str, Viommu]:
    """Every vIOMMU by name; “none” is one."""
    return _named(Viommu, VIOMMUS)


@cache
def device_types() -> dict[str, DeviceType]:
    """Every device type by name."""
    return _named(DeviceType, DEVICES)


def plain_types() -> dict[str, DeviceType]:
    """The vhost-user device types of which nothing is special."""
    return {name: row for name, row in device_types().items() if row.plain}


def vhost_user_types() -> dict[str, DeviceType]:
    """The vhost-user device types."""
    return {name: row for name, row in device_types().items() if row.vhost_user}


def guest(name: str) -> Guest:
    """A guest by name.

    Raises:
        UsageError: no such guest.
    """
    known = guests()
    if name not in known:
        raise unknown_name("guest", name, known)
    return known[name]
