import errno

from qap.lab.migration_layer import Rules
from qap.oracle.vfio_migration import State


def test_no_rules_are_no_lines() -> None:
    assert Rules().lines() == ""


def test_a_rule_is_a_word_and_three_numbers() -> None:
    rules = Rules(
        flags=1 << 63 | 1,
        refuse=State.STOP,
        errno=errno.EBUSY,
        for_good=True,
        no_data_fd=State.RESUMING,
        no_reset=errno.EIO,
        read_most=8,
        pauses=True,
        no_read=State.STOP_COPY,
        read_errno=errno.ENOMSG,
    )
    assert rules.lines().splitlines() == [
        "flags 9223372036854775809 0 0",
        f"refuse 1 {errno.EBUSY} 1",
        "no-data-fd 4 0 0",
        f"no-reset {errno.EIO} 0 0",
        "read-most 8 0 0",
        "pauses 0 0 0",
        f"no-read 3 {errno.ENOMSG} 0",
    ]


def test_no_flags_differ_from_none() -> None:
    assert Rules(flags=0).lines() == "flags 0 0 0\n"
