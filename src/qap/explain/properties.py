"""What a property of a device is in the end, and who says so."""

from dataclasses import dataclass

from qap.explain.command import Command, Item
from qap.explain.device_types import VirtioType
from qap.explain.opts import boolean, spelling
from qap.machine.device_type import Transport

PROXY: dict[Transport, tuple[str, ...]] = {
    "pci": ("virtio-pci", "pci-device"),
    "ccw": ("virtio-ccw-device", "ccw-device"),
    "mmio": (),
}
# The transport of MMIO devices comes with the machine, so only -global reaches its properties.
MMIO = "virtio-mmio"


@dataclass(frozen=True)
class Given:
    """A value, and where it stands."""

    value: str
    by: str

    @property
    def on(self) -> bool:
        return bool(boolean(self.value))


def given(command: Command, item: Item, kind: VirtioType, name: str) -> Given | None:
    """A property as the user gave it; None if nobody did.

    What stands at the device wins over -global. Of -global, one for the transport wins over one
    for the virtio device behind it, and then the last one wins.
    """
    if item.opts.has(name):
        return Given(item.opts.get(name), f"{name}={item.opts.get(name)}")
    own = f"{kind.driver.removesuffix('-transitional').removesuffix('-non')}-base"
    outer = {kind.driver, own, *PROXY[kind.transport]}
    inner = {kind.child, "virtio-device"}
    for drivers in (outer, inner):
        if found := of_globals(command, drivers, name):
            return found
    return None


def of_globals(command: Command, drivers: set[str], name: str) -> Given | None:
    """The last -global for a property of one of these types."""
    found = [
        one
        for one in command.globals
        if one.driver in drivers and spelling(one.property) == spelling(name)
    ]
    if not found:
        return None
    last = found[-1]
    return Given(last.value, f"-global {last.driver}.{last.property}={last.value}")
