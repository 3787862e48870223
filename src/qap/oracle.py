"""What must happen: the fence table, from the specifications and not from QEMU's code.

VIRTIO_F_ACCESS_PLATFORM is feature bit 33 (virtio 1.3, section 6 “Reserved Feature
Bits”): the device can be used on a platform where its access to memory is limited
or translated. On the vhost-user interface the bit means that addresses are I/O virtual
and that the back-end asks for translations (vhost-user protocol, “IOMMU support”).

Nothing here imports the code that measures.
"""

from dataclasses import dataclass
from enum import StrEnum

REFUSAL_PHRASE = "iommu_platform=true is not supported by the device"


class Outcome(StrEnum):
    """How plugging a device ends."""

    WORKS = "works"
    REFUSED = "refused"


@dataclass(frozen=True)
class Expectation:
    """A row of the fence table.

    Attributes:
        outcome: whether the device plugs and serves, or is refused.
        offered: the driver is offered ACCESS_PLATFORM and must accept it.
        translating: the back-end is given the bit and the IOTLB.
        why: the row in words.
    """

    outcome: Outcome
    offered: bool
    translating: bool
    why: str


def plug(*, requested: bool, translated: bool, backend_can: bool) -> Expectation:
    """What plugging a device must lead to.

    Args:
        requested: iommu_platform=on, given or forced by a confidential guest.
        translated: the device's bus is behind an IOMMU once the machine is complete.
        backend_can: the device is in QEMU, or its vhost back-end offers the bit.
    """
    if not requested:
        return Expectation(
            Outcome.WORKS, False, False, "not requested: the bit is not offered to the driver"
        )
    if not translated:
        return Expectation(
            Outcome.WORKS,
            True,
            False,
            "requested, and the bus does not translate: the device plugs, the driver must "
            "accept the bit, and the back-end never sees it",
        )
    if backend_can:
        return Expectation(
            Outcome.WORKS,
            True,
            True,
            "requested, the bus translates and so does the back-end: the device plugs, and "
            "the back-end gets the bit and the IOTLB",
        )
    return Expectation(
        Outcome.REFUSED,
        False,
        False,
        "requested, the bus translates and the back-end can't: refused, whatever the order "
        "on the command line",
    )
