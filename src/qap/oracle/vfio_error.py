"""What must happen when a PCI Express device that VFIO assigns to a guest reports an error.

Written from the specifications, not from QEMU's code. "PCIe" is the PCI Express Base
Specification 5.0, "vfio.h" Linux's include/uapi/linux/vfio.h.

The kernel signals an eventfd (vfio.h, VFIO_PCI_ERR_IRQ_INDEX) and does not say what happened. Its
AER driver clears the status of an error that is not fatal, and leaves that of a fatal one, for
which it resets the link (Linux, Documentation/PCI/pcieaer-howto.rst).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

ALL_ONES = 0xFFFF_FFFF
# PCIe 7.8.4.4: data link protocol, surprise down, flow control, receiver overflow, malformed
# TLP and uncorrectable internal error.
DEFAULT_SEVERITY = 1 << 4 | 1 << 5 | 1 << 13 | 1 << 17 | 1 << 18 | 1 << 22
Asked = Literal["on", "off", "auto"]


class Provider(StrEnum):
    """Where QEMU learns what happened."""

    CONFIG_SPACE = "config-space"
    KERNEL = "kernel"


class Severity(StrEnum):
    """PCIe 6.2.2; UNCLEAR where it can't be told."""

    CORRECTED = "corrected"
    NON_FATAL = "non-fatal"
    FATAL = "fatal"
    UNCLEAR = "unclear"


class Recovery(StrEnum):
    """How far the host has come with an error."""

    DETECTED = "detected"
    RECOVERING = "recovering"
    RESUMED = "resumed"
    LOST = "lost"


class Fate(StrEnum):
    """What becomes of an error."""

    FORWARDED = "forwarded"
    STOPPED = "stopped"
    IGNORED = "ignored"


class Action(StrEnum):
    """What QEMU does for it."""

    MESSAGE = "an ERR_NONFATAL message to the virtual root port"
    STOP = "the VM stops with internal-error"
    NONE = "nothing"


@dataclass(frozen=True)
class Reading:
    """What configuration space shows after the eventfd fired.

    Attributes:
        status: Uncorrectable Error Status; None if it could not be read.
        severity: Uncorrectable Error Severity, a bit set where that error is fatal; 0 for a
            virtual function, which has the register of its physical function (PCIe 9.4.2.4).
        reset: an access had to wait, as those during a reset of the link do, or Device Control
            has lost what the host had enabled, as after one (PCIe 7.5.3.4: it is 0 then).
    """

    status: int | None
    severity: int
    reset: bool = False


@dataclass(frozen=True)
class Setup:
    """A device in its machine.

    Attributes:
        forwards: it forwards errors; see `plug`.
        listens: the guest has enabled ERR_NONFATAL messages on the whole way (PCIe 6.2.6): in
            Device Control of the function and its ports, SERR# of each bridge, and in Root
            Error Command.
    """

    forwards: bool
    listens: bool


@dataclass(frozen=True)
class Expectation:
    """What must become of an error, with the reason and where the specifications say so."""

    fate: Fate
    action: Action
    why: str
    clause: str


CORRECTED = Expectation(
    Fate.IGNORED,
    Action.NONE,
    "hardware has corrected it, and the kernel tells no driver",
    "PCIe 6.2.2.1; pcieaer-howto, Correctable Errors",
)
REPEATED = Expectation(
    Fate.IGNORED,
    Action.NONE,
    "an error counts once, however often it is signalled",
    "vfio.h, VFIO_IRQ_SET_DATA_EVENTFD: an eventfd counts signals, not errors",
)
LOST = Expectation(
    Fate.STOPPED,
    Action.STOP,
    "the host could not recover the device",
    "pcieaer-howto, error_detected",
)
KEPT = Expectation(
    Fate.STOPPED,
    Action.STOP,
    "it forwards no errors, and the guest would go on without knowing",
    "vfio.h, VFIO_PCI_ERR_IRQ_INDEX",
)
RESET = Expectation(
    Fate.STOPPED,
    Action.STOP,
    "the link was reset, or may have been, and the device has lost its state",
    "PCIe 6.2.2.2.1; pcieaer-howto, Non-correctable (non-fatal and fatal) errors",
)
RECOVERS = Expectation(
    Fate.IGNORED,
    Action.NONE,
    "the host recovers: the guest is told when it has",
    "the kernel's recovery interface: accesses are blocked until the device resumes",
)
UNHEARD = Expectation(
    Fate.STOPPED,
    Action.STOP,
    "the guest does not listen, and would go on without knowing",
    "PCIe 6.2.6",
)
FORWARDED = Expectation(
    Fate.FORWARDED,
    Action.MESSAGE,
    "the link works, and the guest's driver can recover",
    "PCIe 6.2.2.2.2 and 6.2.6",
)


@dataclass(frozen=True)
class Place:
    """Where a device is plugged.

    Attributes:
        reported: the kernel reports its errors: vfio.h, VFIO_PCI_ERR_IRQ_INDEX has a count of 1.
        device_aer: it shows an AER capability.
        port_aer: each port between it and a root port has one, and there is a root port.
        alone: it is the only function of its slot.
    """

    reported: bool = True
    device_aer: bool = True
    port_aer: bool = True
    alone: bool = True


def severity(reading: Reading) -> Severity:
    """What a reading of configuration space says of an error that was not corrected.

    A status of 0 is that of an error that the host has dealt with, or of one that a port above
    met. The host resets the link of a fatal one.
    """
    if reading.status is None or reading.status == ALL_ONES:
        return Severity.UNCLEAR
    if reading.status & (reading.severity or DEFAULT_SEVERITY):
        return Severity.FATAL
    return Severity.UNCLEAR if reading.reset else Severity.NON_FATAL


def outcome(
    found: Severity,
    provider: Provider,
    setup: Setup,
    *,
    recovery: Recovery = Recovery.RESUMED,
    repeated: bool = False,
) -> Expectation:
    """What must become of an error.

    Args:
        recovery: how far the host is; the configuration space shows only the end of it.
        repeated: this notification is of an error that was dealt with.
    """
    recovers = provider is Provider.KERNEL and recovery is not Recovery.RESUMED
    rules = (
        (found is Severity.CORRECTED, CORRECTED),
        (repeated, REPEATED),
        (recovery is Recovery.LOST, LOST),
        (not setup.forwards, KEPT),
        (found is not Severity.NON_FATAL, RESET),
        (recovers, RECOVERS),
        (not setup.listens, UNHEARD),
    )
    return next((expected for applies, expected in rules if applies), FORWARDED)


def obstacle(place: Place) -> str:
    """Why a device there can't forward errors, in a few words; "" if it can."""
    if not place.reported:
        return "the host does not report its errors"
    if not place.device_aer:
        return "it has no AER capability"
    if not place.port_aer:
        return "it is not behind a root port with AER"
    if not place.alone:
        return "it is a function of a multifunction device"
    return ""


def plug(asked: Asked, place: Place) -> Literal["on", "off", "refused"]:
    """Whether a device forwards errors, or is refused because it was told to and can't."""
    if asked == "off":
        return "off"
    if not obstacle(place):
        return "on"
    return "refused" if asked == "on" else "off"
