"""The guests, devices, machine types and vIOMMUs of configs/."""

from functools import cache
from typing import Literal

from pydantic import Field

from qap.host.errors import unknown_name
from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.machine.device import Device


class Guest(Model):
    """A guest that boots a Debian kernel (configs/guests.toml).

    Attributes:
        qemu: the emulator's target, as in qemu-system-TARGET.
        architecture: Debian's name for it.
        suites: the Debian suites that the kernel may come from, the best one first.
        console: the kernel's name for its console.
        machine: the machine type that boots it unless a scenario names another.
        cpu: QEMU's CPU model.
        memory: RAM in MiB.
        modules: kernel modules to load at every boot, before those of a device.
        append: kernel parameters beside the console's.
        boot_timeout: seconds from start to the guest's first prompt.
    """

    name: str
    qemu: str
    architecture: str
    suites: tuple[str, ...] = Field(min_length=1)
    kernel: str
    console: str
    machine: str
    cpu: str
    memory: int = 512
    modules: tuple[str, ...] = ()
    append: str = ""
    boot_timeout: float


@cache
def guests() -> dict[str, Guest]:
    path = data() / "guests.toml"
    return {
        name: checked(Guest, {**values, "name": name}, path) for name, values in read(path).items()
    }


def guest(name: str) -> Guest:
    """A guest by name.

    Raises:
        UsageError: no such guest.
    """
    known = guests()
    if name not in known:
        raise unknown_name("guest", name, known)
    return known[name]


class Kind(Model):
    """A device without its transport (configs/devices.toml)."""

    name: str
    backend: Literal["", "virtiofsd", "qemu-storage-daemon"] = ""
    access_platform: bool = True
    device_id: int
    check: Literal["files", "disk", "random"]
    legacy: bool = True
    modules: tuple[str, ...] = ()
    transports: tuple[str, ...]
    properties: dict[str, str | int | bool] = Field(default_factory=dict)


class Viommu(Model):
    """A virtual IOMMU (configs/viommus.toml)."""

    name: str
    purpose: str
    device: dict[str, str | int | bool] | None = None
    append: str = ""
    modules: tuple[str, ...] = ()


class MachineType(Model):
    """A machine type (configs/machines.toml)."""

    name: str
    guest: str
    transport: Literal["pci", "ccw"]
    port: dict[str, str | int | bool] | None = None
    place: dict[str, str] = Field(default_factory=dict)
    viommus: tuple[str, ...] = ()
    bypass: bool = False
    properties: dict[str, str] = Field(default_factory=dict)

    @property
    def ports(self) -> list[Device]:
        """What it needs on its command line for a device to be plugged: a root port, or nothing."""
        return [dict(self.port)] if self.port else []


@cache
def machine_types() -> dict[str, MachineType]:
    path = data() / "machines.toml"
    return {
        name: checked(MachineType, {**row, "name": name}, path) for name, row in read(path).items()
    }


@cache
def kinds() -> dict[str, Kind]:
    path = data() / "devices.toml"
    return {name: checked(Kind, {**row, "name": name}, path) for name, row in read(path).items()}


@cache
def viommus() -> dict[str, Viommu]:
    path = data() / "viommus.toml"
    return {name: checked(Viommu, {**row, "name": name}, path) for name, row in read(path).items()}
