"""A disk that a guest reads all the time, beside what else it does."""

from qap.host.errors import QapError
from qap.machine.guest.console import Console

FAILED, ROUNDS = "/tmp/busy-failed", "/tmp/busy-rounds"
READ_S = 30.0


class ReadFailed(QapError):
    """A read of the disk failed."""


def start(console: Console) -> None:
    """Read the guest's only disk round after round, past the page cache, until a read fails."""
    nodes = "ls /sys/block | grep '^[vs]d'"
    node = console.check(f'await "{nodes}" && {nodes}')
    read = f"dd if=/dev/{node} of=/dev/null bs=64k iflag=direct 2>/dev/null"
    turns = f"while {read}; do echo x >>{ROUNDS}; done; echo >{FAILED}"
    console.check(f"({turns}) </dev/null >/dev/null 2>&1 &")


def went_on(console: Console) -> list[str]:
    """See that it is still read, and that no read failed; returns what was seen, in words.

    Raises:
        ReadFailed: one failed.
        TimeoutError: nothing more is read.
    """
    before = console.check(f"touch {ROUNDS} && wc -l <{ROUNDS}")
    more = f"test -e {FAILED} || test \\$(wc -l <{ROUNDS}) -gt {before}"
    console.check(f'await "{more}"', READ_S)
    if console.run(f"test -e {FAILED}").status == 0:
        raise ReadFailed("a read of the disk that the guest reads meanwhile failed")
    return [f"the guest read a disk meanwhile, {before} times and on"]
