"""What each kind of driver must get from a device that plugged as the fence table says.

It is written from the specifications, as fence.py is.
"""

from dataclasses import dataclass
from typing import Literal

from qap.oracle.fence import Expectation

Kicks = Literal["served", "early", "first"]
FeaturesOk = Literal["alone", "never", "with-driver-ok"]


@dataclass(frozen=True)
class Conduct:
    """How a driver behaves.

    Attributes:
        legacy: it uses the legacy interface.
        version_1, access_platform: it accepts these bits if they are offered.
        features_ok: it sets FEATURES_OK before DRIVER_OK ("alone"), never, or in the same
            write.
        obeys: it stops if FEATURES_OK does not stay set.
        kicks: it notifies after DRIVER_OK ("served"), also before that ("early"), or before
            it writes any status ("first").
        starts: it sets DRIVER_OK at once; otherwise only after a migration.
    """

    legacy: bool = False
    version_1: bool = True
    access_platform: bool = True
    features_ok: FeaturesOk = "alone"
    obeys: bool = True
    kicks: Kicks = "served"
    starts: bool = True

    @property
    def modern(self) -> bool:
        """Whether it accepts VERSION_1."""
        return not self.legacy and self.version_1

    def accepts(self, plugged: Expectation) -> bool:
        """Whether it accepts ACCESS_PLATFORM of this device."""
        return plugged.offered and self.modern and self.access_platform


@dataclass(frozen=True)
class ExpectedService:
    """What a driver gets from a device that is plugged. None means that both are allowed.

    Attributes:
        features_ok: whether FEATURES_OK stays set.
        served: whether its buffer is used.
        translating: a vhost back-end gets ACCESS_PLATFORM and the IOTLB.
        why, clause: the reason, and where the specifications say so.
        tried: the back-end may be told where the rings are, though it is not started.
    """

    features_ok: bool | None
    served: bool | None
    translating: bool
    why: str
    clause: str
    tried: bool = False


def service(
    plugged: Expectation,
    conduct: Conduct,
    *,
    exempt: bool = False,
    demanded: bool = True,
    foreign: bool = False,
    deaf: bool = False,
) -> ExpectedService:
    """What a driver must get from a device that plugged as expected.

    Args:
        exempt: legacy drivers are allowed, because the platform's firmware is one
            (CCW revision 0).
        demanded: the device requires ACCESS_PLATFORM if it offers it. False for
            x-require-iommu-platform=off, so that a guest which never accepted it may go on.
        foreign: a kernel serves the device whose byte order is not the guest's.
        deaf: the back-end has to be told of each mapping, and the IOMMU of the bus can't tell.
    """
    accepts = conduct.accepts(plugged)
    if plugged.offered and not accepts:
        if not demanded:
            return ExpectedService(
                None,
                None,
                False,
                "a driver without ACCESS_PLATFORM may pass, as its device was told",
                "virtio 1.3, 6.2 ACCESS_PLATFORM (the device may fail to operate)",
            )
        if exempt and conduct.legacy:
            return ExpectedService(
                None,
                None,
                False,
                "a revision 0 driver, as today's firmware is: refused only on request",
                "virtio 1.3, 4.3.2.1",
            )
        sets = conduct.features_ok == "alone" and not conduct.legacy
        return ExpectedService(
            False if sets else None,
            False,
            False,
            "the driver did not accept ACCESS_PLATFORM, which was offered: it is never served",
            "virtio 1.3, 6.1 ACCESS_PLATFORM, 3.1.1 steps 5 and 6, 2.2.2",
        )
    if undecided := _undecided(conduct, foreign=foreign, told=plugged.always):
        return ExpectedService(None, None, plugged.always, *undecided)
    if deaf:
        return ExpectedService(
            None,
            False,
            True,
            "the IOMMU does not say what it maps, and the kernel has to be told: never served",
            "linux/vhost.h, VHOST_IOTLB_MSG_V2; AMD I/O Virtualization Technology, NpCache",
            tried=True,
        )
    return ExpectedService(
        True if conduct.features_ok == "alone" and not conduct.legacy else None,
        True if conduct.starts else None,
        plugged.translating and (accepts or plugged.always),
        "the driver accepted what it must: it is served"
        + (", at I/O virtual addresses" if plugged.translating and accepts else ""),
        "virtio 1.3, 3.1.1; vhost-user, IOMMU support",
    )


def _undecided(conduct: Conduct, *, foreign: bool, told: bool) -> tuple[str, str] | None:
    """Why a driver may be served or not, and where that is said; None where it is decided.

    Args:
        told: the back-end is a vDPA device, which gets no driver that it takes for a legacy one.
    """
    if told and conduct.features_ok == "never":
        return (
            "a driver that never sets FEATURES_OK has not said that its features are final",
            "virtio 1.3, 3.1.1 step 5",
        )
    if conduct.kicks == "first":
        return (
            "nothing was asked of the driver; a legacy one may notify before DRIVER_OK",
            "virtio 1.3, 2.1.2 and 3.1.2 (legacy)",
        )
    if not conduct.modern and not conduct.legacy:
        return (
            "a driver without VERSION_1 on the modern interface may be refused or served",
            "virtio 1.3, 6.1 VERSION_1",
        )
    if conduct.legacy and foreign:
        return (
            "a kernel serves rings in the other byte order only if it was built for that "
            "(CONFIG_VHOST_CROSS_ENDIAN_LEGACY)",
            "virtio 1.3, 2.7.3 (legacy); <linux/vhost.h>, VHOST_SET_VRING_ENDIAN",
        )
    return None
