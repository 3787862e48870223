"""Why apt did not bring something: told apart by what it prints, in the C locale."""

import re
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from qap.errors import MissingError


class Reason(StrEnum):
    """A kind of failure, as JSON files name it."""

    NOT_FOUND = "not-found"
    DAMAGED = "damaged"
    UNRESOLVED = "unresolved"
    NO_NETWORK = "no-network"
    NO_PACKAGE = "no-package"
    NO_SUITE = "no-suite"
    NOT_TRUSTED = "not-trusted"
    NO_SPACE = "no-space"
    OTHER = "other"


# The first that matches counts: a suite that is not there is a 404, too.
WORDS = {
    Reason.NO_SUITE: r"does not have a Release file",
    Reason.NO_SPACE: r"No space left on device|enough free space",
    Reason.NOT_TRUSTED: r"NO_PUBKEY|not signed|signatures? (couldn't|were invalid)|is expired"
    r"|is not valid yet|GPG error",
    Reason.DAMAGED: r"unexpected size|Hash Sum mismatch|Hashes of|Clearsigned file isn't valid",
    Reason.NOT_FOUND: r"\b404\b|\b410\b",
    Reason.NO_PACKAGE: r"Unable to locate package|Unable to find a source package|No packages found"
    r"|has no installation candidate|Can't select candidate",
    Reason.UNRESOLVED: r"Could not resolve|Something wicked happened resolving",
    Reason.NO_NETWORK: r"Temporary failure resolving|Could not connect|Cannot initiate the conn"
    r"|Unable to connect|Connection (failed|timed out)|Network is unreachable|No route to host",
}
SAID = {
    Reason.NOT_FOUND: "the mirror lists {file} and answers 404",
    Reason.DAMAGED: "the mirror's {file} has the wrong size or hash",
    Reason.UNRESOLVED: "the name {host} does not resolve",
    Reason.NO_NETWORK: "no network, or {host} does not answer",
    Reason.NO_PACKAGE: "it has no {wanted}",
    Reason.NO_SUITE: "the mirror has no such suite",
    Reason.NOT_TRUSTED: "its signature is missing, wrong or out of date",
    Reason.NO_SPACE: "the disk is full",
    Reason.OTHER: "apt failed",
}
REMEDY = {
    Reason.NOT_FOUND: "the mirror is incomplete: try again later or use another in apt's sources",
    Reason.DAMAGED: "the mirror is being changed: try again later or use another in apt's sources",
    Reason.UNRESOLVED: "correct the name in apt's sources or proxy, or the name server",
    Reason.NO_NETWORK: "connect to the network",
    Reason.NO_PACKAGE: "run `apt-cache policy` to find a suite that has it, and add that",
    Reason.NO_SUITE: "name a suite that the mirror has",
    Reason.NOT_TRUSTED: "update debian-archive-keyring, and look at this machine's clock",
    Reason.NO_SPACE: "free some of it",
    Reason.OTHER: "see what it said",
}
# Every suite comes from one mirror: with one of these, no other suite can be brought either.
OF_THE_MIRROR = {Reason.UNRESOLVED, Reason.NO_NETWORK, Reason.NO_SPACE}
URL = re.compile(r"Failed to fetch (?P<url>\S+)")
HOST = re.compile(r"(?:resolv\w+|connect to) '?(?P<host>[^\s']+)")


class Unavailable(MissingError):
    """A suite could not give something.

    Args:
        reason: the kind of failure.
        why: in words, without the suite.
        detail: what apt said.
    """

    def __init__(self, reason: Reason, why: str, detail: str = "") -> None:
        super().__init__(f"{why}: {REMEDY[reason]}", detail)
        self.reason = reason
        self.why = why


def unavailable(said: str, wanted: str) -> Unavailable:
    """The failure that apt printed.

    Args:
        said: its standard error, LC_ALL=C.
        wanted: what was asked of it.
    """
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("E:")] or lines[-5:]
    for reason, words in WORDS.items():
        for line in errors:
            if re.search(words, line):
                why = SAID[reason].format(wanted=wanted, file=_file(line), host=_host(line))
                return Unavailable(reason, why, "\n".join(errors))
    return Unavailable(Reason.OTHER, SAID[Reason.OTHER], "\n".join(errors))


def _url(line: str) -> str:
    found = URL.search(line)
    return found["url"] if found else ""


def _file(line: str) -> str:
    return unquote(_url(line).rpartition("/")[2]) or "file"


def _host(line: str) -> str:
    found = HOST.search(line)
    return found["host"] if found else urlsplit(_url(line)).hostname or "the mirror"
