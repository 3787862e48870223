"""What a -device of QEMU is: a virtio device of a family and transport, or something else."""

from dataclasses import dataclass
from functools import cache

from qap.explain.knowledge import families, knowledge, type_names
from qap.host.errors import unknown_name
from qap.machine.catalog import DeviceType
from qap.machine.device_type import Transport

TRANSITIONAL = "-transitional"
NON_TRANSITIONAL = "-non-transitional"
# What an alias without a transport stands for, by the emulator's target; PCI elsewhere.
ALIAS: dict[str, Transport] = {"s390x": "ccw", "m68k": "mmio"}


@dataclass(frozen=True)
class VirtioType:
    """What a -device is.

    Attributes:
        families: those that share the name; their back-ends tell them apart.
        variant: "transitional" or "non-transitional" if its name says so.
    """

    driver: str
    transport: Transport
    families: tuple[DeviceType, ...]
    variant: str = ""

    @property
    def child(self) -> str:
        """The type of the virtio device behind the transport."""
        return self.families[0].driver("mmio")


@cache
def _by_driver() -> dict[str, tuple[Transport, tuple[DeviceType, ...]]]:
    found: dict[str, tuple[Transport, tuple[DeviceType, ...]]] = {}
    transports: tuple[Transport, ...] = ("pci", "mmio", "ccw")
    for family in families().values():
        for transport in transports:
            if transport in family.every_transport:
                driver = family.driver(transport)
                found[driver] = (transport, (*found.get(driver, (transport, ()))[1], family))
    return found


def virtio_type(driver: str, target: str) -> VirtioType | None:
    """The virtio device type that -device calls so; None if it is no such device.

    Args:
        target: the emulator's.
    Raises:
        UsageError: QEMU has no such device.
    """
    name, variant = driver, ""
    for suffix in (NON_TRANSITIONAL, TRANSITIONAL):
        if driver.endswith(suffix):
            name, variant = driver.removesuffix(suffix), suffix[1:]
            break
    if name in knowledge().aliases:
        name = families()[name].driver(ALIAS.get(target, "pci"))
    if name in _by_driver():
        transport, known = _by_driver()[name]
        if not variant or driver in type_names():
            return VirtioType(driver, transport, known, variant)
    if driver not in type_names():
        raise unknown_name("device", driver, {*type_names(), *_by_driver()})
    return None
