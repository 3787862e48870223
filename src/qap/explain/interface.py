"""The interface of a device to its driver: legacy, modern or both, on stock and on the fork."""

from dataclasses import dataclass

from qap.explain.buses import Bus
from qap.explain.command import Command, Item
from qap.explain.device_types import VirtioType
from qap.explain.knowledge import knowledge
from qap.explain.machine_type import Machine
from qap.explain.opts import boolean
from qap.explain.properties import MMIO, given, of_globals
from qap.machine.catalog import DeviceType
from qap.oracle.fence import Legacy

NEITHER = "device cannot work as neither modern nor legacy mode is enabled"
LOW_REVISION = "Invalid value of property max_rev (is 0 expected >= 1)"
NO_MSIX = "MSI-X support is mandatory in the S390 architecture"
NEVER = (0, 0)
# Machine types up to these set properties of PCI devices.
ALSO_LEGACY = (2, 6)
VSOCK_LEGACY = (5, 0)


@dataclass(frozen=True)
class Interface:
    """What a driver can see of a device.

    Attributes:
        legacy: as in `qap.oracle.fence.plug`, on the fork; stock: on stock QEMU.
        shown: in words, on the fork.
        why: who decided.
        error: why it can't be plugged at all; "".
    """

    legacy: Legacy
    stock: Legacy
    shown: str
    why: str = ""
    error: str = ""


def interface(
    command: Command,
    item: Item,
    kind: VirtioType,
    family: DeviceType,
    machine: Machine,
    bus: Bus | None,
) -> Interface:
    """The interface of a device.

    Args:
        bus: what it is plugged into, if that is PCI.
    """
    if kind.transport == "mmio":
        return _mmio(command, machine)
    if kind.transport == "ccw":
        return _ccw(command, item, kind, family)
    if bus and bus.bridges_only:
        return Interface("", "", "none", "", f"PCI: {bus.bridges_only}")
    last = knowledge().no_msix.get(family.name, NEVER)
    if machine.target == "s390x" and machine.version and machine.version <= last:
        return Interface("", "", "none", "", NO_MSIX)
    return _pci(command, item, kind, family, machine, bus)


def _mmio(command: Command, machine: Machine) -> Interface:
    said = of_globals(command, {MMIO}, "force-legacy")
    if said:
        legacy: Legacy = "only" if said.on else ""
        return Interface(legacy, legacy, _version(legacy), said.by)
    if machine.confidential:
        return Interface("", "only", "version 2 (stock: 1)", "confidential-guest-support, fork")
    return Interface("only", "only", _version("only"), "virtio-mmio's default, force-legacy=true")


def _version(legacy: Legacy) -> str:
    return "version 1, legacy" if legacy else "version 2, modern"


def _ccw(command: Command, item: Item, kind: VirtioType, family: DeviceType) -> Interface:
    said = given(command, item, kind, "max_revision")
    if said is None or said.value != "0":
        return Interface("", "", f"revision {said.value if said else 2}", said.by if said else "")
    # The types that only the fork has are all made without revision 0.
    error = "" if family.legacy and "ccw" in family.transports else LOW_REVISION
    return Interface("only", "only", "revision 0, legacy", said.by, error)


def _pci(
    command: Command,
    item: Item,
    kind: VirtioType,
    family: DeviceType,
    machine: Machine,
    bus: Bus | None,
) -> Interface:
    old = machine.version or (99, 0)
    always = not family.legacy and not (family.name == "vhost-vsock" and old <= VSOCK_LEGACY)
    if always or kind.variant == "non-transitional":
        return Interface("", "", "modern", "it has no other" if always else kind.driver)
    if kind.variant == "transitional":
        return Interface("also", "also", "transitional", kind.driver)
    no_legacy, why = _no_legacy(command, item, kind, machine, bus)
    modern = given(command, item, kind, "disable-modern")
    no_modern = modern.on if modern else old <= ALSO_LEGACY
    if no_modern and no_legacy:
        return Interface("", "", "none", why, NEITHER)
    if no_modern:
        return Interface("only", "only", "legacy", modern.by if modern else machine.type)
    if no_legacy:
        return Interface("", "", "modern", why)
    return Interface("also", "also", "transitional", why)


def _no_legacy(
    command: Command, item: Item, kind: VirtioType, machine: Machine, bus: Bus | None
) -> tuple[bool, str]:
    """disable-legacy in the end, and who says so."""
    said = given(command, item, kind, "disable-legacy")
    if said and (value := boolean(said.value)) is not None:
        return value, said.by
    if machine.confidential and not said:
        return True, machine.confidential
    if machine.version and machine.version <= ALSO_LEGACY and not said:
        return False, machine.type
    if bus is None:
        return False, "its bus is not known"
    if bus.is_port:
        return True, f"it is behind a PCI Express port, {bus.name}"
    return False, f"{bus.name} is {'the root bus' if bus.is_root else 'conventional PCI'}"
