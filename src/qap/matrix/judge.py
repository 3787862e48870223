"""Beside what must happen, what did: the differences, each of a kind that can be listed."""

from dataclasses import dataclass
from enum import StrEnum

from qap.matrix.cell import Cell
from qap.matrix.observation import CellObservation
from qap.oracle import fence
from qap.oracle.features import FeatureBit, names
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.oracle.lifecycle import Continuation

ACCESS_PLATFORM = FeatureBit.ACCESS_PLATFORM


class ProblemKind(StrEnum):
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

    kind: ProblemKind
    text: str


def judge(cell: Cell, seen: CellObservation) -> list[Problem]:
    """Every difference between a cell's expectation and what was seen; empty if none."""
    plugged, service = cell.expected
    if not seen.outcome:
        return [Problem(ProblemKind.ERROR, seen.error or "it could not be carried out")]
    if seen.outcome != plugged.outcome:
        if seen.outcome == Outcome.REFUSED:
            return [Problem(ProblemKind.REFUSED, f"refused, but must plug: {seen.error}")]
        return [
            Problem(ProblemKind.PLUGGED, "plugged, but must be refused"),
            *_leftovers(seen),
            *_backend(seen, fence.ExpectedService(None, None, False, "", "")),
        ]
    if service is None:
        return [*_message(cell, plugged, seen), *_leftovers(seen)]
    return [
        *([] if cell.driver_row.legacy else _offer(plugged, seen)),
        *_status(service, seen),
        *_service(service, seen),
        *_backend(seen, service),
        *_config(cell, seen),
        *_continuation(cell.continuation, seen),
        *_leftovers(seen),
    ]


def _message(cell: Cell, plugged: fence.Expectation, seen: CellObservation) -> list[Problem]:
    if cell.config.plug == "cold" and seen.exit_status != 1:
        text = f"QEMU ended with status {seen.exit_status}, not 1"
        return [Problem(ProblemKind.MESSAGE, text)]
    config = cell.config
    for_the_bus = config.backend_row.version_1 and not config.interface_row.legacy
    if for_the_bus and REFUSAL_PHRASE not in seen.error:
        return [Problem(ProblemKind.MESSAGE, f"the error is another one: {seen.error}")]
    return []


def _offer(plugged: fence.Expectation, seen: CellObservation) -> list[Problem]:
    if seen.features is None or (ACCESS_PLATFORM in seen.features) == plugged.offered:
        return []
    said = "is not offered to" if plugged.offered else "is offered unasked to"
    return [Problem(ProblemKind.OFFERED, f"ACCESS_PLATFORM {said} the driver")]


def _status(service: fence.ExpectedService, seen: CellObservation) -> list[Problem]:
    if not _differ(service.features_ok, seen.features_ok):
        return []
    return [
        Problem(
            ProblemKind.FEATURES_OK, "FEATURES_OK " + ("stays" if seen.features_ok else "is lost")
        )
    ]


def _service(service: fence.ExpectedService, seen: CellObservation) -> list[Problem]:
    if not _differ(service.served, seen.served):
        return []
    if seen.served:
        return [Problem(ProblemKind.SERVED, f"served, though {service.why}")]
    return [Problem(ProblemKind.UNSERVED, f"not served, though {service.why}")]


def _backend(seen: CellObservation, service: fence.ExpectedService) -> list[Problem]:
    """What a vhost back-end was told; nothing to judge where it was told nothing."""
    found = []
    if seen.ring_started and service.served is False:
        found.append(Problem(ProblemKind.RING, "the back-end was told where the ring is"))
    if seen.backend_unoffered:
        told = ", ".join(names(seen.backend_unoffered))
        found.append(
            Problem(ProblemKind.UNOFFERED, f"the back-end was given what it never offered: {told}")
        )
    if seen.ring_started and seen.backend_features is not None:
        given = ACCESS_PLATFORM in seen.backend_features
        if given != service.translating:
            verb = "was given" if given else "was not given"
            found.append(Problem(ProblemKind.BACKEND_BIT, f"the back-end {verb} ACCESS_PLATFORM"))
    if seen.iotlb is not None and seen.iotlb > 0 and not service.translating:
        found.append(Problem(ProblemKind.IOTLB, "the back-end got IOTLB messages"))
    if seen.iotlb == 0 and seen.served and service.translating:
        found.append(Problem(ProblemKind.IOTLB, "the back-end got no IOTLB message"))
    return found


def _config(cell: Cell, seen: CellObservation) -> list[Problem]:
    """Both reads were a modern driver's, and so in the same order."""
    if seen.config_early == seen.config_late:
        return []
    text = f"configuration reads {seen.config_early} early and {seen.config_late} late"
    return [Problem(ProblemKind.CONFIG, text)]


def _continuation(continuation: Continuation | None, seen: CellObservation) -> list[Problem]:
    """What became of a driver whose device got another back-end or another host."""
    if continuation is None:
        return []
    found = [*_arrival(continuation, seen), *_comeback(continuation, seen)]
    if _differ(continuation.served, seen.later_served):
        if seen.later_served:
            found.append(
                Problem(ProblemKind.SERVED, f"served afterwards, though {continuation.why}")
            )
        else:
            found.append(
                Problem(ProblemKind.UNSERVED, f"not served afterwards, though {continuation.why}")
            )
    if _differ(continuation.recovers, seen.recovered):
        if seen.recovered:
            found.append(
                Problem(ProblemKind.SERVED, f"served in the end, though {continuation.why}")
            )
        else:
            text = "not served in the end, when all is as it should be"
            found.append(Problem(ProblemKind.LOST, text))
    return found


def _arrival(continuation: Continuation, seen: CellObservation) -> list[Problem]:
    """Whether the destination took the VM, and what it said if not."""
    if _differ(continuation.arrives, seen.arrived):
        if seen.arrived:
            return [Problem(ProblemKind.ARRIVED, f"the VM arrives, though {continuation.why}")]
        text = f"the VM can't move in, though {continuation.why}: {seen.later_error}"
        return [Problem(ProblemKind.TURNED_AWAY, text)]
    if seen.arrived is False and continuation.names not in seen.later_error:
        text = f"the destination's error does not name {continuation.names}: {seen.later_error}"
        return [Problem(ProblemKind.MESSAGE, text)]
    return []


def _comeback(continuation: Continuation, seen: CellObservation) -> list[Problem]:
    """What the back-end that came back was told."""
    found = []
    if seen.later_unoffered:
        told = ", ".join(names(seen.later_unoffered))
        text = f"the back-end that came back was given what it does not offer: {told}"
        found.append(Problem(ProblemKind.UNOFFERED, text))
    if _differ(continuation.started, seen.later_started):
        told = "was told" if seen.later_started else "was not told"
        text = f"the back-end that came back {told} where the ring is, though {continuation.why}"
        found.append(Problem(ProblemKind.RING if seen.later_started else ProblemKind.LOST, text))
    return found


def _differ(expected: bool | None, seen: bool | None) -> bool:
    """Whether it is not as it must be, where either matters."""
    return None not in (expected, seen) and expected != seen


def _leftovers(seen: CellObservation) -> list[Problem]:
    return [Problem(ProblemKind.LEFTOVERS, f"left behind: {', '.join(seen.leftovers)}")] * bool(
        seen.leftovers
    )
