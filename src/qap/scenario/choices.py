"""What can be chosen of a case, whether a guest shows it or a driver in Python."""

from typing import Literal

from qap.host.toml import Model

Plug = Literal["cold", "hot", "replug"]
Order = Literal["before", "after"]
# Choices that are there or not, each an option of its own name.
OPTIONS = ("iothread", "packed", "ats", "busy", "fail_requests", "migrate")


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
        kill_backend: its back-end is killed while the guest does nothing with it, or reads, and
            started again; "" if it is not.
        fail_requests: a virtiofs answers in place of a daemon that is gone (x-fail-requests).
        migrate: the VM migrates to another QEMU and uses the device there.
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
    kill_backend: Literal["", "idle", "busy"] = ""
    fail_requests: bool = False
    migrate: bool = False
