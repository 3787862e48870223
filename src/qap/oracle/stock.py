"""What stock QEMU does where a device is plugged, as far as it departs from the fence table.

The fence table is what must happen; this is what QEMU 10.0 does instead. Pure like the rest of
the oracle. Base cells of the matrix show it (configs/gaps.toml has the faults by name).
"""

from dataclasses import dataclass
from typing import Literal

from qap.oracle.fence import REFUSAL_PHRASE, Legacy, Outcome

Transport = Literal["pci", "mmio", "ccw"]

NO_MEANS = "IOMMU support requires reply-ack and backend-req protocol features."
LOW_REVISION = "Invalid value of property max_rev"
NO_DRIVER = "no driver of virtio-mmio's version 2 takes a device without VERSION_1"
NO_INTERFACE = "Device doesn't support modern mode, and legacy mode is disabled"
UNREACHABLE = "its back-end can't map guest memory: the guest waits for ever at its first request"
NO_SIMULATION = "Parameter 'qom-type' does not accept value 'x-confidential-sim'"
LEGACY_PCI = "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device"


@dataclass(frozen=True)
class Conclusion:
    """How stock QEMU ends the plug of a device.

    Attributes:
        outcome: works or refused.
        error: what it says, if it refuses.
        fault: what is wrong with that; "" if it is as it must be.
    """

    outcome: Outcome
    error: str = ""
    fault: str = ""


def plug(
    *,
    transport: Transport,
    requested: bool,
    translated: bool,
    backend_can: bool,
    asked: bool = True,
    has_means: bool = True,
    legacy: Legacy = "",
    version_1: bool = True,
) -> Conclusion:
    """What becomes of a device.

    Args:
        requested, legacy, version_1: as in `qap.oracle.fence.plug`.
        translated: its bus is behind an IOMMU. On PCI stock QEMU refuses as if it were.
        backend_can: the device is in QEMU, or its back-end offers ACCESS_PLATFORM; for the plug
            stock QEMU asks for nothing else.
        asked: stock QEMU asks the back-end of such a device; if not, it takes for granted that
            it can.
        has_means: a vhost-user back-end that offers the bit has what translation takes, too
            (REPLY_ACK and BACKEND_REQ).
    """
    if not has_means:
        needed = requested and translated
        fault = "" if needed else "nothing has to be translated: it need not be refused"
        return Conclusion(Outcome.REFUSED, NO_MEANS, fault)
    if transport != "pci":
        return _off_pci(transport, requested, legacy, version_1)
    if not version_1 and not legacy:
        return Conclusion(Outcome.REFUSED, NO_INTERFACE)
    if not requested:
        return Conclusion(Outcome.WORKS)
    return _requested_on_pci(translated, backend_can, asked, bool(legacy))


def _requested_on_pci(translated: bool, can: bool, asked: bool, legacy: bool) -> Conclusion:
    if not can and asked:
        fault = "" if translated or legacy else "the bus does not translate: it need not be refused"
        return Conclusion(Outcome.REFUSED, REFUSAL_PHRASE, fault)
    if legacy:
        return Conclusion(Outcome.REFUSED, LEGACY_PCI)
    hole = (
        "the back-end is given the bit, I/O virtual addresses and IOTLB messages, which it never "
        "offered to understand"
    )
    return Conclusion(Outcome.WORKS, fault=hole if translated and not can else "")


def unreachable() -> Conclusion:
    """What becomes of a device that stock QEMU plugs, and whose back-end can't map memory."""
    return Conclusion(Outcome.WORKS, fault=UNREACHABLE)


def plug_vdpa(*, transport: Transport, requested: bool, offers: bool) -> Conclusion:
    """What becomes of a device in front of a vDPA device.

    Args:
        offers: the vDPA device offers ACCESS_PLATFORM.
    """
    if offers:
        return Conclusion(Outcome.WORKS)
    if requested and transport == "pci":
        return Conclusion(Outcome.REFUSED, REFUSAL_PHRASE)
    return Conclusion(
        Outcome.WORKS,
        fault="the device takes the I/O virtual addresses that it is given for physical ones",
    )


def _off_pci(transport: Transport, requested: bool, legacy: Legacy, version_1: bool) -> Conclusion:
    if not version_1 and not legacy:
        if transport == "ccw":
            return Conclusion(Outcome.REFUSED, LOW_REVISION)
        return Conclusion(Outcome.WORKS, fault=NO_DRIVER)
    if requested and legacy:
        return Conclusion(
            Outcome.WORKS,
            fault="a driver of the legacy interface can't accept the bit, and is served all the "
            "same",
        )
    return Conclusion(Outcome.WORKS)
