"""The errors a user can see: each is a line that says what is wrong and what to do."""

import re
from collections.abc import Iterable
from enum import IntEnum

# What programs say of it; tar, if a part of the data could still be written.
FULL = re.compile(r"No space left on device|Wrote only \d+ of \d+ bytes")


class Exit(IntEnum):
    """Exit codes of every verb (documented in docs/verbs.md)."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    MISSING = 3
    FAILED = 4
    INTERRUPTED = 130


class QapError(Exception):
    """Something the user can act on; str() is the whole message.

    Args:
        message: what is wrong and what to do, in one line.
        detail: further lines (a compiler's error, QEMU's last output).
    """

    code = Exit.FAILED

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class UsageError(QapError):
    """A name, option or file that the user gave is wrong."""

    code = Exit.USAGE


class MissingError(QapError):
    """Something that is needed is not on this machine and could not be fetched."""

    code = Exit.MISSING


class Interrupted(QapError):
    """The user interrupted qap."""

    code = Exit.INTERRUPTED

    def __init__(self) -> None:
        super().__init__("interrupted")


def failure(message: str, said: str) -> QapError:
    """An error for a program that failed; the message tells if the disk was full.

    Args:
        said: what the program printed in the C locale, for the detail.
    """
    full = ": the disk is full, free some of it" if FULL.search(said) else ""
    return QapError(f"{message}{full}", said.strip())


# Names that an error lists where none is near.
LISTED = 12


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """An error for a name that is not known, with the nearest valid ones."""
    from rapidfuzz import process

    names = sorted(valid)
    near = [match[0] for match in process.extract(name, names, limit=3, score_cutoff=45)]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    listed = f"valid: {', '.join(names[:LISTED])}{more}"
    hint = f"did you mean {' or '.join(near)}?" if near else listed
    return UsageError(f"unknown {kind} {name!r}: {hint}")
