"""The scenarios of the kernel lab."""

from pathlib import Path

import pytest

from qap.host.errors import UsageError
from qap.verify import lab

TESTS = Path(__file__).parents[2] / "lab"


def test_each_folder_of_tests_is_a_scenario() -> None:
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert folders == {scenario.name for scenario in lab.chosen([])}


def test_scenario_that_is_not_there_is_named_with_one_that_is() -> None:
    with pytest.raises(UsageError, match="unknown scenario 'l2': did you mean l1"):
        lab.chosen(["l2"])


def test_scenarios_are_listed_with_their_tests(capsys: pytest.CaptureFixture[str]) -> None:
    lab.show(lab.chosen(["l1"]))
    assert "tests/lab/l1" in capsys.readouterr().out
