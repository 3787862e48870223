"""What explain predicts is what stock QEMU and the fork do."""

from pathlib import Path

import pytest

from qap.explain.backend import told
from qap.explain.explanation import Explanation, explain
from qap.fork.build import Build
from qap.oracle.fence import Outcome
from qap.scenario.rerun import Rerun, problems, rerun
from qap.verify.kit.random_topology import topology

SEEDS = 500
CHUNK = 25
NOWHERE = Path("/nowhere")


def explained(seed: int) -> Explanation:
    made = topology(seed)
    known = dict(told(one) for one in made.backends)
    return explain(made.text.encode(), f"seed {seed}", NOWHERE, known)


def run(explanation: Explanation) -> list[Rerun]:
    return rerun(explanation, Build("lab", is_base=True), Build("lab"))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_prediction_comes_true(first: int) -> None:
    wrong = []
    for seed in range(first, first + CHUNK):
        explanation = explained(seed)
        assert explanation.left == []
        found = list(problems(run(explanation)))
        if found:
            made = topology(seed)
            wrong += [f"seed {seed}:", *found, made.text, f"backends: {made.backends}"]
    assert not wrong, "\n".join(wrong)


def test_topologies_have_every_outcome_and_most_are_run() -> None:
    """That nothing differs tells something only if much is tried."""
    ends = set()
    for seed in range(SEEDS):
        for one in explained(seed).predictions:
            for verdict in one.verdicts:
                ends.add((verdict.on_stock.outcome, verdict.plugged.outcome, one.kind.transport))
    works, refused = Outcome.WORKS, Outcome.REFUSED
    assert ends >= {
        (works, works, "pci"),
        (refused, works, "pci"),
        (works, refused, "pci"),
        (refused, refused, "pci"),
        (works, works, "mmio"),
        (works, refused, "mmio"),
        (works, works, "ccw"),
        (works, refused, "ccw"),
    }
