"""Beside what must happen, what did: the differences, each of a kind that can be listed."""

from dataclasses import dataclass
from enum import StrEnum

from qap.matrix.cell import Cell
from qap.matrix.observation import Seen
from qap.oracle import fence
from qap.oracle.features import FeatureBit, names
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.oracle.lifecycle import Sequel

ACCESS_PLATFORM = FeatureBit.ACCESS_PLATFORM


class Kind(StrEnum):
    """What is different; configs/gaps.toml and the results use these words."""

    ERROR = "error"
    REFUSED = "refused"
    PLUGGED = "plugged"
    MESSAGE = "message"
    OFFERED = "offered"
    FEATURES_OK = "features-ok"
    SERVED = "served"
    UNSERVED = "unserved"
    RING = "ring-started"
    UNOFFERED = "backend-unoffered"
    BACKEND_BIT = "backend-access-platform"
    IOTLB = "iotlb"
    CONFIG = "config-order"
    ARRIVED = "arrived"
    TURNED_AWAY = "turned-away"
    LOST = "not-recovered"
    LEFTOVERS = "leftovers"


@dataclass(frozen=True)
class Problem:
    """A difference, in a word and in a sentence."""

    kind: Kind
    text: str


def judge(cell: Cell, seen: Seen) -> list[Problem]:
    """Every difference between a cell's expectation and what was seen; empty if none."""
    plugged, service = cell.expected
    if not seen.outcome:
        return [Problem(Kind.ERROR, seen.error or "it could not be carried out")]
    if seen.outcome != plugged.outcome:
        if seen.outcome == Outcome.REFUSED:
            return [Problem(Kind.REFUSED, f"refused, but must plug: {seen.error}")]
        return [
            Problem(Kind.PLUGGED, "plugged, but must be refused"),
            *_leftovers(seen),
            *_backend(seen, fence.Service(None, None, False, "", "")),
        ]
    if service is None:
        return [*_message(cell, plugged, seen), *_leftovers(seen)]
    return [
        *([] if cell.driver_row.legacy else _offer(plugged, seen)),
        *_status(service, seen),
        *_service(service, seen),
        *_backend(seen, service),
        *_config(cell, seen),
        *_sequel(cell.sequel, seen),
        *_leftovers(seen),
    ]


def _message(cell: Cell, plugged: fence.Expectation, seen: Seen) -> list[Problem]:
    if cell.config.plug == "cold" and seen.exit_status != 1:
        text = f"QEMU ended with status {seen.exit_status}, not 1"
        return [Problem(Kind.MESSAGE, text)]
    config = cell.config
    for_the_bus = config.backend_row.version_1 and not config.interface_row.legacy
    if for_the_bus and REFUSAL_PHRASE not in seen.error:
        return [Problem(Kind.MESSAGE, f"the error is another one: {seen.error}")]
    return []


def _offer(plugged: fence.Expectation, seen: Seen) -> list[Problem]:
    if seen.features is None or (ACCESS_PLATFORM in seen.features) == plugged.offered:
        return []
    said = "is not offered to" if plugged.offered else "is offered unasked to"
    return [Problem(Kind.OFFERED, f"ACCESS_PLATFORM {said} the driver")]


def _status(service: fence.Service, seen: Seen) -> list[Problem]:
    if not _differ(service.features_ok, seen.features_ok):
        return []
    return [
        Problem(Kind.FEATURES_OK, "FEATURES_OK " + ("stays" if seen.features_ok else "is lost"))
    ]


def _service(service: fence.Service, seen: Seen) -> list[Problem]:
    if not _differ(service.served, seen.served):
        return []
    if seen.served:
        return [Problem(Kind.SERVED, f"served, though {service.why}")]
    return [Problem(Kind.UNSERVED, f"not served, though {service.why}")]


def _backend(seen: Seen, service: fence.Service) -> list[Problem]:
    """What a vhost back-end was told; nothing to judge where it was told nothing."""
    found = []
    if seen.ring_started and service.served is False:
        found.append(Problem(Kind.RING, "the back-end was told where the ring is"))
    if seen.backend_unoffered:
        told = ", ".join(names(seen.backend_unoffered))
        found.append(
            Problem(Kind.UNOFFERED, f"the back-end was given what it never offered: {told}")
        )
    if seen.ring_started and seen.backend_features is not None:
        given = ACCESS_PLATFORM in seen.backend_features
        if given != service.translating:
            verb = "was given" if given else "was not given"
            found.append(Problem(Kind.BACKEND_BIT, f"the back-end {verb} ACCESS_PLATFORM"))
    if seen.iotlb is not None and seen.iotlb > 0 and not service.translating:
        found.append(Problem(Kind.IOTLB, "the back-end got IOTLB messages"))
    if seen.iotlb == 0 and seen.served and service.translating:
        found.append(Problem(Kind.IOTLB, "the back-end got no IOTLB message"))
    return found


def _config(cell: Cell, seen: Seen) -> list[Problem]:
    """Both reads were a modern driver's, and so in the same order."""
    if seen.config_early == seen.config_late:
        return []
    text = f"configuration reads {seen.config_early} early and {seen.config_late} late"
    return [Problem(Kind.CONFIG, text)]


def _sequel(sequel: Sequel | None, seen: Seen) -> list[Problem]:
    """What became of a driver whose device got another back-end or another host."""
    if sequel is None:
        return []
    found = [*_arrival(sequel, seen), *_comeback(sequel, seen)]
    if _differ(sequel.served, seen.later_served):
        if seen.later_served:
            found.append(Problem(Kind.SERVED, f"served afterwards, though {sequel.why}"))
        else:
            found.append(Problem(Kind.UNSERVED, f"not served afterwards, though {sequel.why}"))
    if _differ(sequel.recovers, seen.recovered):
        if seen.recovered:
            found.append(Problem(Kind.SERVED, f"served in the end, though {sequel.why}"))
        else:
            text = "not served in the end, when all is as it should be"
            found.append(Problem(Kind.LOST, text))
    return found


def _arrival(sequel: Sequel, seen: Seen) -> list[Problem]:
    """Whether the destination took the VM, and what it said if not."""
    if _differ(sequel.arrives, seen.arrived):
        if seen.arrived:
            return [Problem(Kind.ARRIVED, f"the VM arrives, though {sequel.why}")]
        text = f"the VM can't move in, though {sequel.why}: {seen.later_error}"
        return [Problem(Kind.TURNED_AWAY, text)]
    if seen.arrived is False and sequel.names not in seen.later_error:
        text = f"the destination's error does not name {sequel.names}: {seen.later_error}"
        return [Problem(Kind.MESSAGE, text)]
    return []


def _comeback(sequel: Sequel, seen: Seen) -> list[Problem]:
    """What the back-end that came back was told."""
    found = []
    if seen.later_unoffered:
        told = ", ".join(names(seen.later_unoffered))
        text = f"the back-end that came back was given what it does not offer: {told}"
        found.append(Problem(Kind.UNOFFERED, text))
    if _differ(sequel.started, seen.later_started):
        told = "was told" if seen.later_started else "was not told"
        text = f"the back-end that came back {told} where the ring is, though {sequel.why}"
        found.append(Problem(Kind.RING if seen.later_started else Kind.LOST, text))
    return found


def _differ(expected: bool | None, seen: bool | None) -> bool:
    """Whether it is not as it must be, where either matters."""
    return None not in (expected, seen) and expected != seen


def _leftovers(seen: Seen) -> list[Problem]:
    return [Problem(Kind.LEFTOVERS, f"left behind: {', '.join(seen.leftovers)}")] * bool(
        seen.leftovers
    )
