"""What must happen to a driver when its device gets another back-end, or migrates.

Pure functions like those of `qap.oracle.fence`, and from the same specifications.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from qap.oracle.fence import Expectation
from qap.oracle.service import Conduct, ExpectedService, service

Feature = Literal["VERSION_1", "ACCESS_PLATFORM"]

PROPERTY = "iommu_platform"


@dataclass(frozen=True)
class Continuation:
    """What must happen to a driver whose device gets another back-end, or migrates.

    None means that both are allowed, or that the attribute does not apply.

    Attributes:
        arrives: the destination of a migration accepts it.
        names: what the error must name if the destination does not.
        started: the back-end that came back is told where the rings are.
        served: the driver's next buffer is used: by that back-end and not by its front-end,
            or at the destination.
        recovers: a buffer is used in the end: once the back-end offers its old features
            again, or after the driver at the destination has reset the device and accepted
            what is offered there.
        why, clause: the reason, and where the specifications say so.
    """

    arrives: bool | None = None
    names: str = ""
    started: bool | None = None
    served: bool | None = None
    recovers: bool | None = None
    why: str = ""
    clause: str = ""


def departure(before: ExpectedService) -> Continuation:
    """What must happen when the back-end of a device in use goes away for good: nothing.

    The driver waits, the VM goes on, and the device can be reset and unplugged.

    Args:
        before: what the driver got from it.
    """
    return Continuation(
        served=False if before.served is not None else None,
        why="only its back-end serves a vhost-user device, and it has gone",
        clause="vhost-user, Starting and stopping rings; virtio 1.3, 2.4",
    )


def comeback(conduct: Conduct, before: ExpectedService, lost: Collection[Feature]) -> Continuation:
    """What must happen when the back-end of a device in use goes, and another one comes.

    Args:
        before: what the driver got from the first back-end.
        lost: the features of the first back-end that the second one does not offer. A third
            one offers all of them again.
    """
    clause = "virtio 1.3, 2.2.1; vhost-user, VHOST_USER_SET_FEATURES and IOMMU support"
    if not before.served:
        return Continuation(
            started=before.served,
            served=before.served,
            recovers=before.served,
            why=f"another back-end changes nothing: {before.why}",
            clause=before.clause,
        )
    given: dict[Feature, bool] = {
        "VERSION_1": conduct.modern,
        "ACCESS_PLATFORM": before.translating,
    }
    missing = [name for name, needed in given.items() if needed and name in lost]
    if missing:
        return Continuation(
            started=False,
            served=False,
            recovers=True,
            why=f"the rings depend on {', '.join(missing)}, which this back-end does not "
            "offer: it is told of none until it does",
            clause=clause,
        )
    return Continuation(
        started=True,
        served=True,
        recovers=True,
        why="the back-end offers what the rings depend on: it serves on",
        clause=clause,
    )


def arrival(
    source: Expectation,
    destination: Expectation,
    conduct: Conduct,
    *,
    exempt: bool = False,
    source_demands: bool = True,
    destination_demands: bool = True,
) -> Continuation:
    """What must happen when a driver and its VM migrate.

    A driver accepts features before it runs, and again only after it has reset the device
    (2.2.1, 3.1.1). So a driver that runs can't accept what the destination requires, and
    can't give up what the destination lacks.

    Args:
        source, destination: the device on either side, plugged.
        exempt: as for `service`.
        source_demands, destination_demands: `demanded` of `service`, on either side.
    """
    passes = exempt and conduct.legacy
    before = service(source, replace(conduct, starts=True), exempt=exempt, demanded=source_demands)
    clause = "virtio 1.3, 2.2.1, 3.1.1 steps 4 to 6, 6.1 ACCESS_PLATFORM"
    if conduct.accepts(source):
        if destination.offered:
            why = "the driver accepted ACCESS_PLATFORM, and finds it there, too"
            return Continuation(True, "", None, before.served, True, why, clause)
        why = "the driver accepted ACCESS_PLATFORM, which is not offered there"
        return Continuation(False, why=why, clause=clause)
    if not destination.offered:
        why = "the driver did not accept ACCESS_PLATFORM, and nobody asks for it there"
        served = None if source.offered else before.served
        return Continuation(True, "", None, served, True, why, clause)
    runs = _runs(conduct, before)
    why = "the driver did not accept ACCESS_PLATFORM, which is asked for there"
    if passes or not destination_demands:
        why += ", but not insisted on"
        # Behind an IOMMU its addresses may not be mapped.
        same = not (source.offered or destination.translating)
        return Continuation(True, "", None, before.served if same else None, True, why, clause)
    if runs:
        return Continuation(False, PROPERTY, None, False, None, why, clause)
    why += ": it can accept it first" if runs is False else ": it is never served"
    return Continuation(None if runs is None else True, "", None, False, True, why, clause)


def _runs(conduct: Conduct, before: ExpectedService) -> bool | None:
    """Whether a driver is past feature negotiation; None if both are possible."""
    if conduct.kicks == "first" or False in (before.features_ok, before.served):
        return False
    return True if before.features_ok or before.served else None


@dataclass(frozen=True)
class Loss:
    """What must become of a guest when its device's back-end is killed, and started again.

    Attributes:
        io: what a request does while no back-end is there; None: none is made.
        again: the device serves in the end, or another one in its place; None: nothing is done
            to bring one.
        why, clause: the reason, and where the specifications say so.
    """

    io: Literal["waits", "fails"] | None
    again: bool | None
    why: str
    clause: str = "vhost-user, Starting and stopping rings; virtio 1.3, 2.4"


def loss(*, reconnects: bool, busy: bool, answers: bool, replaced: bool) -> Loss:
    """What must become of it.

    Args:
        reconnects: QEMU connects to the next back-end.
        busy: the guest makes requests when the back-end is killed.
        answers: the device answers a request that its back-end left.
        replaced: the device is unplugged then, and one with another back-end plugged.
    """
    if reconnects:
        why = "a request waits until another back-end serves its ring, and then ends well"
        return Loss("waits", True, why)
    if not busy:
        why = "no request was out, so the driver lets the device go"
        if not replaced:
            why = "nobody asks for anything"
        return Loss(None, True if replaced else None, why)
    if answers:
        why = "the device answers in its back-end's place"
        return Loss("fails", True if replaced else None, why)
    why = "the driver waits for a request that nobody answers"
    if replaced:
        why += ", and does not let the device go"
    return Loss("waits", False if replaced else None, why)
