"""What helps where a device is refused, or plugs and is not served."""

from collections.abc import Sequence
from typing import Literal

from qap.oracle.fence import Legacy

Transport = Literal["pci", "mmio", "ccw"]

TRANSLATES = "a back-end that offers ACCESS_PLATFORM, REPLY_ACK and BACKEND_REQ"
INSTEAD = "iommu_platform=off"
NO_VIOMMU = "no vIOMMU"
BYPASS = (
    "a root bus that bypasses the IOMMU: bypass_iommu=on of a pxb-pcie, or "
    "default-bus-bypass-iommu=on of the machine; the IOMMU does not protect then"
)
MODERN: dict[Transport, str] = {
    "pci": "disable-legacy=on, or a bus below a PCI Express root port",
    "mmio": "-global virtio-mmio.force-legacy=false",
    "ccw": "max_revision=1 or higher",
}


def of_refusal(
    *,
    transport: Transport,
    requested: bool,
    translated: bool,
    legacy: Legacy,
    version_1: bool,
    is_iommu: bool,
    demands: bool = False,
    fixed: bool = False,
) -> Sequence[str]:
    """What makes a device plug that the fence table refuses; the best first.

    Args: as in `qap.oracle.fence.plug`, and
        demands: the guest is a confidential one, which drives no device without the bit.
        fixed: the host bridge translates by itself: there is no vIOMMU to leave out or bypass.
    """
    instead = [] if demands else [INSTEAD]
    if not version_1:
        return ["a back-end that offers VERSION_1"]
    if not requested:
        return []
    if legacy:
        modern = MODERN[transport]
        if transport == "pci" and legacy == "only":
            modern = "disable-modern=off,disable-legacy=on"
        return [modern, *instead]
    without = [] if fixed else [NO_VIOMMU, BYPASS] if demands else [BYPASS]
    if is_iommu:
        return [*(["iommu_platform=off for the IOMMU"] if not demands else []), *without]
    if translated:
        return [TRANSLATES, *instead, *without]
    return []


def of_simulation() -> Sequence[str]:
    """What helps where a simulated confidential guest has a vIOMMU."""
    return [NO_VIOMMU]


def of_stock(*, requested: bool, demands: bool) -> Sequence[str]:
    """What helps where stock QEMU refuses a device that need not be refused.

    Args: as in `of_refusal`.
    """
    return ["the fork", *([INSTEAD] if requested and not demands else [])]


def of_memory() -> Sequence[str]:
    """What helps where a vhost-user back-end can't map guest memory."""
    return [
        "share=on for the memory backend; without one, -object memory-backend-memfd,id=mem0,"
        "size=SIZE,share=on and memory-backend=mem0 of the machine"
    ]


def of_vdpa() -> Sequence[str]:
    """What helps where a vDPA device does not offer ACCESS_PLATFORM."""
    return ["a vDPA device that offers ACCESS_PLATFORM; no property of QEMU helps"]


def of_service(*, declines: bool, demands: bool, requested: bool) -> Sequence[str]:
    """What helps where a device plugs and its driver fails.

    Args: as in `qap.oracle.fence.driven`.
    """
    if demands and not requested:
        return ["iommu_platform=on, which a confidential guest's kernel demands of each device"]
    if declines and demands:
        return ["none: leave the device out, a confidential guest can't have it"]
    return ["iommu_platform=off for this device"]
