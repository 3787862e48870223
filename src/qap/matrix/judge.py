"""Compare a cell's observation with its expectation; each difference has a kind."""

from dataclasses import dataclass
from enum import StrEnum

from qap.matrix.cell import Cell
from qap.matrix.config_reading import misread
from qap.matrix.observation import CellObservation
from qap.oracle import fence
from qap.oracle.features import FeatureBit, names
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.oracle.lifecycle import Continuation
from qap.oracle.service import ExpectedService

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


def judge(cell: Cell, observation: CellObservation) -> list[Problem]:
    """Every difference between a cell's expectation and its observation; empty if none."""
    plugged, service = cell.expected_with(newer=observation.newer)
    if not observation.outcome:
        return [Problem(ProblemKind.ERROR, observation.error or "it could not be carried out")]
    if observation.outcome != plugged.outcome:
        if observation.outcome == Outcome.REFUSED:
            return [Problem(ProblemKind.REFUSED, f"refused, but must plug: {observation.error}")]
        return [
            Problem(ProblemKind.PLUGGED, "plugged, but must be refused"),
            *_leftovers(observation),
            *_backend(observation, ExpectedService(None, None, False, "", "")),
        ]
    if service is None:
        return [*_message(cell, plugged, observation), *_leftovers(observation)]
    return [
        *([] if cell.driver_row.legacy else _offer(plugged, observation)),
        *_status(service, observation),
        *_service(service, observation),
        *_backend(observation, service),
        *_config(cell, observation),
        *_continuation(cell.continuation, observation),
        *_leftovers(observation),
    ]


def _message(cell: Cell, plugged: fence.Expectation, observation: CellObservation) -> list[Problem]:
    if cell.config.plug == "cold" and observation.exit_status != 1:
        text = f"QEMU ended with status {observation.exit_status}, not 1"
        return [Problem(ProblemKind.MESSAGE, text)]
    config = cell.config
    for_the_bus = config.backend_row.version_1 and not config.interface_row.legacy
    if for_the_bus and REFUSAL_PHRASE not in observation.error:
        return [Problem(ProblemKind.MESSAGE, f"the error is another one: {observation.error}")]
    return []


def _offer(plugged: fence.Expectation, observation: CellObservation) -> list[Problem]:
    if observation.features is None or (ACCESS_PLATFORM in observation.features) == plugged.offered:
        return []
    said = "is not offered to" if plugged.offered else "is offered unasked to"
    return [Problem(ProblemKind.OFFERED, f"ACCESS_PLATFORM {said} the driver")]


def _status(service: ExpectedService, observation: CellObservation) -> list[Problem]:
    if not _differ(service.features_ok, observation.features_ok):
        return []
    return [
        Problem(
            ProblemKind.FEATURES_OK,
            "FEATURES_OK " + ("stays" if observation.features_ok else "is lost"),
        )
    ]


def _service(service: ExpectedService, observation: CellObservation) -> list[Problem]:
    if not _differ(service.served, observation.served):
        return []
    if observation.served:
        return [Problem(ProblemKind.SERVED, f"served, though {service.why}")]
    return [Problem(ProblemKind.UNSERVED, f"not served, though {service.why}")]


def _backend(observation: CellObservation, service: ExpectedService) -> list[Problem]:
    """What a vhost back-end was told; nothing to judge where it was told nothing."""
    problems = []
    if observation.ring_started and service.served is False and not service.tried:
        problems.append(Problem(ProblemKind.RING, "the back-end was told where the ring is"))
    if observation.backend_unoffered:
        told = ", ".join(names(observation.backend_unoffered))
        problems.append(
            Problem(ProblemKind.UNOFFERED, f"the back-end was given what it never offered: {told}")
        )
    if observation.ring_started and observation.backend_features is not None:
        given = ACCESS_PLATFORM in observation.backend_features
        if given != service.translating:
            verb = "was given" if given else "was not given"
            problems.append(
                Problem(ProblemKind.BACKEND_BIT, f"the back-end {verb} ACCESS_PLATFORM")
            )
    if observation.iotlb is not None and observation.iotlb > 0 and not service.translating:
        problems.append(Problem(ProblemKind.IOTLB, "the back-end got IOTLB messages"))
    unheard = observation.iotlb == 0 and observation.iotlb_before == 0
    if unheard and observation.served and service.translating:
        problems.append(Problem(ProblemKind.IOTLB, "the back-end got no IOTLB message"))
    return problems


def _config(cell: Cell, observation: CellObservation) -> list[Problem]:
    """Each reading has the bytes that a modern driver reads once it has accepted VERSION_1."""
    config = cell.config
    wrong = misread(observation.config, config.device_row.config_layout, config.machine_row.order)
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return [Problem(ProblemKind.CONFIG, f"configuration: {wrong[0]}{more}")] if wrong else []


def _continuation(continuation: Continuation | None, observation: CellObservation) -> list[Problem]:
    """What became of a driver whose device got another back-end or another host."""
    if continuation is None:
        return []
    problems = [*_arrival(continuation, observation), *_reconnect(continuation, observation)]
    if _differ(continuation.served, observation.later_served):
        if observation.later_served:
            problems.append(
                Problem(ProblemKind.SERVED, f"served afterwards, though {continuation.why}")
            )
        else:
            problems.append(
                Problem(ProblemKind.UNSERVED, f"not served afterwards, though {continuation.why}")
            )
    if _differ(continuation.recovers, observation.recovered):
        if observation.recovered:
            problems.append(
                Problem(ProblemKind.SERVED, f"served in the end, though {continuation.why}")
            )
        else:
            text = "not served in the end, when all is as it should be"
            problems.append(Problem(ProblemKind.LOST, text))
    return problems


def _arrival(continuation: Continuation, observation: CellObservation) -> list[Problem]:
    """Whether the destination took the VM, and what it said if not."""
    if _differ(continuation.arrives, observation.arrived):
        if observation.arrived:
            return [Problem(ProblemKind.ARRIVED, f"the VM arrives, though {continuation.why}")]
        text = f"the VM can't move in, though {continuation.why}: {observation.later_error}"
        return [Problem(ProblemKind.TURNED_AWAY, text)]
    if observation.arrived is False and continuation.names not in observation.later_error:
        text = (
            f"the destination's error does not name {continuation.names}: {observation.later_error}"
        )
        return [Problem(ProblemKind.MESSAGE, text)]
    return []


def _reconnect(continuation: Continuation, observation: CellObservation) -> list[Problem]:
    """What the back-end was told after the reconnect."""
    problems = []
    if observation.later_unoffered:
        told = ", ".join(names(observation.later_unoffered))
        text = f"the back-end that came back was given what it does not offer: {told}"
        problems.append(Problem(ProblemKind.UNOFFERED, text))
    if _differ(continuation.started, observation.later_started):
        told = "was told" if observation.later_started else "was not told"
        text = f"the back-end that came back {told} where the ring is, though {continuation.why}"
        problems.append(
            Problem(ProblemKind.RING if observation.later_started else ProblemKind.LOST, text)
        )
    return problems


def _differ(expected: bool | None, observed: bool | None) -> bool:
    """Whether both are known and differ."""
    return None not in (expected, observed) and expected != observed


def _leftovers(observation: CellObservation) -> list[Problem]:
    return [
        Problem(ProblemKind.LEFTOVERS, f"left behind: {', '.join(observation.leftovers)}")
    ] * bool(observation.leftovers)
