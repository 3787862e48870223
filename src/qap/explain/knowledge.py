"""What is known of QEMU beside the catalogue (configs/explain.toml)."""

from functools import cache
from typing import Literal

from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.machine.catalog import DeviceType, device_types
from qap.machine.device_type import Transport

BusKind = Literal["port", "bridge", "to_pci", "root"]


class QemuOptions(Model):
    """QEMU's options, separated by white space, by whether a value follows."""

    with_value: str
    alone: str
    gone_with_value: str
    gone_alone: str


class MachineRow(Model):
    """A machine type; the file says what the keys mean."""

    match: tuple[str, ...]
    targets: tuple[str, ...]
    default: bool = False
    transport: Transport = "pci"
    root: str = ""
    express: bool = False
    optional: str = ""
    bypass: bool = False
    translates: str = ""
    iommu: tuple[str, str] | None = None
    iommus: tuple[str, ...] = ()
    disk: str = ""
    nic: str = ""


class Stock(Model):
    """Where stock QEMU differs between vhost devices; the file says how."""

    unasked: tuple[str, ...]
    unrequested: tuple[str, ...]
    presumed: tuple[str, ...]


class Knowledge(Model):
    """The whole file."""

    options: QemuOptions
    machine: dict[str, MachineRow]
    boards: dict[str, tuple[str, ...]]
    versions: dict[str, str]
    iommu: dict[str, str]
    bus: dict[str, BusKind]
    aliases: tuple[str, ...]
    stock: Stock
    no_msix: dict[str, tuple[int, int]]
    type: dict[str, dict[str, object]]


PATH = data() / "explain.toml"
# Every name of a type in QEMU's source, devices among them.
TYPES = data() / "qemu-types.txt"


@cache
def knowledge() -> Knowledge:
    """The file; raises UsageError if it is wrong."""
    return checked(Knowledge, read(PATH), PATH)


@cache
def type_names() -> frozenset[str]:
    """What QEMU has types of; not each is a device."""
    return frozenset(TYPES.read_text().split())


@cache
def families() -> dict[str, DeviceType]:
    """Every virtio device type, without its transport."""
    more = {
        name: checked(DeviceType, {**row, "name": name}, PATH, f"type.{name}")
        for name, row in knowledge().type.items()
    }
    return {**device_types(), **more}
