"""What can be chosen of a case, whether a guest shows it or a driver in Python."""

from typing import Literal

from qap.host.toml import Model

Plug = Literal["cold", "hot", "replug"]
Order = Literal["before", "after"]
# Choices that are there or not, each an option of its own name.
OPTIONS = ("iothread", "packed", "ats", "busy")


class Choices(Model):
    """How a device is plugged, where, and what it is asked to have.

    Attributes:
        plug: cold, hot, or replug: hot, out, and in again.
        viommu: a name of configs/viommus.toml.
        order: the vIOMMU's place on the command line, seen from the device.
        bypass: the machine's root bus bypasses the vIOMMU (default-bus-bypass-iommu).
        behind: another place of the machine for the device; "" for the usual one.
        queues: how many request queues the device has; 0 for its default.
        iothread: an iothread serves it.
        packed: it is asked to offer packed rings.
        ats: it and the vIOMMU have an address translation service.
        busy: the guest reads another disk while the device is plugged.
    """

    plug: Plug = "cold"
    iommu_platform: bool = True
    viommu: str = "none"
    order: Order = "before"
    bypass: bool = False
    behind: str = ""
    queues: int = 0
    iothread: bool = False
    packed: bool = False
    ats: bool = False
    busy: bool = False
