"""A prediction as JSON has it (docs/json.md)."""

from dataclasses import asdict

from qap.explain.facts import Verdict
from qap.explain.prediction import Prediction


def as_json(one: Prediction) -> dict[str, object]:
    """A device and what becomes of it."""
    return {
        "id": one.item.id,
        "device": one.kind.driver,
        "type": one.family.name,
        "by": one.item.option,
        "transport": one.kind.transport,
        "bus": one.bus,
        "interface": asdict(one.interface),
        "requested": one.requested,
        "requested_by": one.requested_by,
        "translated": one.translation.translated,
        "translated_why": one.translation.why,
        "backend": asdict(one.backend),
        "private_memory": one.private,
        "missing_on": one.missing,
        "verdicts": [_verdict(verdict) for verdict in one.verdicts],
        "remarks": list(one.remarks),
    }


def _verdict(verdict: Verdict) -> dict[str, object]:
    return {
        "assumed": verdict.assumed,
        "fork": asdict(verdict.driven),
        "fork_plugs": verdict.plugged.outcome,
        "stock": {**asdict(verdict.on_stock), "outcome": verdict.driven_on_stock},
        "stock_plugs": verdict.on_stock.outcome,
        "remedies": list(verdict.remedies),
    }
