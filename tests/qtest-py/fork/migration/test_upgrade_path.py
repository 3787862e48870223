"""The tables of docs/upgrade.md: each of their rows, as a live migration of a driven device."""

from collections.abc import Mapping

import pytest

from qap.fork.build import Build
from qap.verify.kit.lab import Lab
from qap.verify.kit.upgrade_path import ACROSS, OUTCOMES, WAYS, Case, Hosts, cases, name, outcome


def check(case: Case, builds: Mapping[str, Build], lab: Lab) -> None:
    """Move a machine as a cell says, and compare."""
    assert case.outcome in OUTCOMES
    source, destination = (builds[name] for name in case.way.split(" to "))
    hosts = Hosts(case, source, destination, lab.folder, lab.owned)
    assert outcome(hosts) == case.outcome


@pytest.mark.parametrize("case", cases(WAYS), ids=name)
def test_row_of_the_table(lab: Lab, other: Build, case: Case) -> None:
    check(case, {"fork": lab.build, "stock": other}, lab)


@pytest.mark.parametrize("case", cases(ACROSS), ids=name)
def test_row_of_the_table_of_two_bases(lab: Lab, bases: Mapping[str, Build], case: Case) -> None:
    check(case, bases, lab)
