"""The tables of docs/upgrade.md: each of their rows, as a live migration of a driven device.

They name their bases, so another base under test makes no difference.
"""

from collections.abc import Callable

import pytest

from qap.fork.build import Build
from qap.host.paths import FIRST_SERIES
from qap.verify.kit.lab import Lab
from qap.verify.kit.upgrade_path import ACROSS, OUTCOMES, WAYS, Case, Hosts, cases, name, outcome

Built = Callable[[str], Build]


def check(case: Case, source: Build, destination: Build, lab: Lab) -> None:
    """Move a machine as a cell says, and compare."""
    assert case.outcome in OUTCOMES
    hosts = Hosts(case, source, destination, lab.folder, lab.owned)
    assert outcome(hosts) == case.outcome


@pytest.mark.parametrize("case", cases(WAYS), ids=name)
def test_row_of_the_table(lab: Lab, built: Built, case: Case) -> None:
    source, destination = (built(f"{kind} {FIRST_SERIES}") for kind in case.way.split(" to "))
    check(case, source, destination, lab)


@pytest.mark.parametrize("case", cases(ACROSS), ids=name)
def test_row_of_the_table_of_two_bases(lab: Lab, built: Built, case: Case) -> None:
    source, destination = (built(side) for side in case.way.split(" to "))
    check(case, source, destination, lab)
