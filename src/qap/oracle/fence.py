"""The fence table: what must happen where a device is plugged. service.py goes on from there.

It is written from the specifications, not from QEMU's code, and imports nothing of the code
that measures.

VIRTIO_F_ACCESS_PLATFORM is feature bit 33 (virtio 1.3, section 6 “Reserved Feature
Bits”): the device can be used on a platform where its access to memory is limited
or translated. On the vhost-user interface the bit means that addresses are I/O virtual
and that the back-end asks for translations (vhost-user protocol, “IOMMU support”). Which addresses
it is given then, also with GPA_ADDRESSES of QEMU 11.1, is in addresses.py.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

Legacy = Literal["", "also", "only"]

REFUSAL_PHRASE = "iommu_platform=true is not supported by the device"


class Outcome(StrEnum):
    """How plugging a device ends; UNSERVED: it plugs, and its driver in a guest fails."""

    WORKS = "works"
    REFUSED = "refused"
    UNSERVED = "not served"


@dataclass(frozen=True)
class Expectation:
    """A row of the fence table.

    Attributes:
        outcome: whether the device plugs and serves, or is refused.
        offered: the driver is offered ACCESS_PLATFORM and must accept it.
        translating: the back-end gets the bit and the IOTLB.
        why: the row in words.
        clause: where the specifications say so.
        always: the back-end gets them whatever the driver accepts.
    """

    outcome: Outcome
    offered: bool
    translating: bool
    why: str
    clause: str = "virtio 1.3, 6.1 ACCESS_PLATFORM; vhost-user, IOMMU support"
    always: bool = False


def can_translate(*, offers: bool, lacks: Collection[str] = ()) -> bool:
    """Whether a vhost-user back-end can translate addresses.

    It must offer ACCESS_PLATFORM, and have the back-end channel on which it asks for
    translations (BACKEND_REQ) and confirm those that are taken back (REPLY_ACK).

    Args:
        lacks: protocol features that it does not offer.
    """
    return offers and not {"BACKEND_REQ", "REPLY_ACK"} & set(lacks)


_UNREACHABLE = Expectation(
    Outcome.REFUSED,
    False,
    False,
    "the back-end is a process of its own, and guest memory is not shared: it can't reach the "
    "driver's rings",
    "vhost-user, VHOST_USER_SET_MEM_TABLE",
)
_NO_VERSION_1 = Expectation(
    Outcome.REFUSED,
    False,
    False,
    "a device without a legacy interface must offer VERSION_1, and the back-end can't",
    "virtio 1.3, 6.1 VERSION_1",
)


def simulated_behind_viommu() -> Expectation:
    """What plugging any device must lead to where a simulated confidential guest has a vIOMMU."""
    return Expectation(
        Outcome.REFUSED,
        False,
        False,
        "a vIOMMU can't be used with x-confidential-sim: what a device reaches through it is not "
        "checked",
        "docs/confidential.md",
    )


def plug(
    *,
    requested: bool,
    translated: bool,
    backend_can: bool,
    legacy: Legacy = "",
    version_1: bool = True,
    is_iommu: bool = False,
    lenient: bool = False,
    reachable: bool = True,
) -> Expectation:
    """What plugging a device must lead to.

    Args:
        requested: iommu_platform=on, given or forced by a confidential guest.
        translated: the device's bus is behind an IOMMU once the machine is complete.
        backend_can: the device is in QEMU, or its vhost back-end can translate.
        legacy: whether the device has a legacy interface, in addition to the modern one or
            alone. A driver that uses it can't accept the bit, and need not.
        version_1: the device is able to offer VERSION_1.
        is_iommu: the device is itself the IOMMU of its bus.
        lenient: a device with nothing but a legacy interface is taken all the same, because
            it does not insist on ACCESS_PLATFORM (x-require-iommu-platform=off) and its
            transport never refused it. Not on PCI.
        reachable: the device is in QEMU or the kernel, or its vhost-user back-end can map all
            memory of the guest.
    """
    if not reachable or not (version_1 or legacy):
        return _UNREACHABLE if not reachable else _NO_VERSION_1
    if not requested:
        return Expectation(
            Outcome.WORKS, False, False, "not requested: the bit is not offered to the driver"
        )
    special = _unasked(legacy, lenient) or _refused(legacy, is_iommu)
    if special:
        return special
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


def plug_vdpa(*, requested: bool, translated: bool, offers: bool) -> Expectation:
    """What plugging a device in front of a vDPA device must lead to.

    The kernel maps the VM's memory for a vDPA device by IOTLB messages alone, so its addresses
    are always I/O virtual ones, and it always has to be told so.

    Args:
        offers: the vDPA device offers ACCESS_PLATFORM.
    """
    if not offers:
        return Expectation(
            Outcome.REFUSED,
            False,
            False,
            "a vDPA device that does not offer the bit takes addresses for physical ones, and "
            "gets I/O virtual ones: refused, on every bus",
            "virtio 1.3, 6.1 ACCESS_PLATFORM; linux/vhost.h, VHOST_IOTLB_MSG_V2",
        )
    expected = plug(requested=requested, translated=translated, backend_can=True)
    return replace(expected, translating=True, always=True)


def _unasked(legacy: Legacy, lenient: bool) -> Expectation | None:
    """The row for a device that plugs though no driver of it can be asked for the bit."""
    if legacy and lenient:
        return Expectation(
            Outcome.WORKS,
            False,
            False,
            "requested, but a driver of its legacy interface is not shown bit 33, and the device "
            "does not insist on it",
            "virtio 1.3, 6.2 ACCESS_PLATFORM (the device may fail to operate)",
        )
    return None


def _refused(legacy: Legacy, is_iommu: bool) -> Expectation | None:
    """The row for a device that can't have the bit anywhere."""
    if legacy:
        return Expectation(
            Outcome.REFUSED,
            False,
            False,
            "requested, and the device has a legacy interface, whose drivers can't accept "
            "bit 33: refused",
            "virtio 1.3, 6.1 ACCESS_PLATFORM and 4.1.4.10 (32 feature bits)",
        )
    if is_iommu:
        return Expectation(
            Outcome.REFUSED,
            False,
            False,
            "requested, and the device is the IOMMU: to translate its ring it would have to "
            "read its ring",
            "virtio 1.3, 5.13",
        )
    return None


def driven(plugged: Expectation, *, declines: bool, demands: bool) -> Expectation:
    """What must become of a device in a guest.

    Args:
        plugged: what plugging it must lead to.
        declines: its driver never accepts ACCESS_PLATFORM.
        demands: the guest's kernel drives no device without it, as a confidential guest's does.
    """
    if plugged.outcome is Outcome.REFUSED:
        return plugged
    if demands and not plugged.offered:
        return replace(
            plugged,
            outcome=Outcome.UNSERVED,
            why="not requested, so the bit is not offered, and the kernel of a confidential guest "
            "drives no device without it",
            clause="virtio 1.3, 6.1 ACCESS_PLATFORM and 3.1.1 (FAILED)",
        )
    if declines and plugged.offered:
        return replace(
            plugged,
            outcome=Outcome.UNSERVED,
            translating=False,
            why="requested, and the device plugs; but its driver does not accept the bit: it is "
            "never served",
            clause="virtio 1.3, 6.1 ACCESS_PLATFORM, 3.1.1 steps 5 and 6, 2.2.2",
        )
    return plugged
