"""What is said of a name that is not known, and of a program that failed."""

import pytest

from qap.host.errors import LISTED, failure, unknown_name


def test_few_names_are_all_listed() -> None:
    said = str(unknown_name("profile", "qqq", ["lab", "debian"]))
    assert said == "unknown profile 'qqq': valid: debian, lab"


def test_many_names_stay_one_line_that_can_be_read() -> None:
    names = [f"name{number:03}" for number in range(100)]
    said = str(unknown_name("cell", "!", names))
    assert said.endswith(f", name{LISTED - 1:03} and {100 - LISTED} more")


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("cc1: fatal error: a.o: No space left on device\n", True),
        ("tar: ./a: Wrote only 5632 of 10240 bytes\n", True),
        ("tar: ./a: Not found in archive\n", False),
    ],
)
def test_full_disk_is_told_from_other_failures(said: str, full: bool) -> None:
    error = failure("it can't be unpacked", said)
    assert error.detail == said.strip()
    told = ": the disk is full, free some of it" if full else ""
    assert str(error) == f"it can't be unpacked{told}"
