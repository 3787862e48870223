"""What is said of a name that is not known."""

from qap.host.errors import LISTED, unknown_name


def test_few_names_are_all_listed() -> None:
    said = str(unknown_name("profile", "qqq", ["lab", "debian"]))
    assert said == "unknown profile 'qqq': valid: debian, lab"


def test_many_names_stay_one_line_that_can_be_read() -> None:
    names = [f"name{number:03}" for number in range(100)]
    said = str(unknown_name("cell", "!", names))
    assert said.endswith(f", name{LISTED - 1:03} and {100 - LISTED} more")
