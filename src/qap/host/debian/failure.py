"""Why apt failed, derived from its messages in the C locale."""

import re
from collections.abc import Sequence
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from qap.host.errors import MissingError


class Reason(StrEnum):
    """A kind of failure, as JSON files name it."""

    NOT_FOUND = "not-found"
    HTTP_STATUS = "http-status"
    DAMAGED = "damaged"
    UNRESOLVED = "unresolved"
    NO_NETWORK = "no-network"
    NO_PACKAGE = "no-package"
    NO_SUITE = "no-suite"
    NO_MIRROR = "no-mirror"
    NOT_TRUSTED = "not-trusted"
    NO_SPACE = "no-space"
    OTHER = "other"


# apt's messages about a file, then about a suite or package; the first match counts.
WORDS = {
    Reason.NOT_FOUND: r"Failed to fetch \S+ +(404|410)\b",
    Reason.HTTP_STATUS: r"Failed to fetch \S+ +[1345]\d\d\b",
    Reason.NO_SPACE: r"No space left on device|enough free space",
    Reason.DAMAGED: r"unexpected size|Hash Sum mismatch|Hashes of|Clearsigned file isn't valid",
    Reason.NO_NETWORK: r"Temporary failure resolving|Could not connect|Cannot initiate the conn"
    r"|Unable to connect|Connection (failed|timed out)|Network is unreachable|No route to host"
    r"|Error reading from server|Undetermined Error",
    Reason.UNRESOLVED: r"Could not resolve|Something wicked happened resolving",
    Reason.NO_SUITE: r"does not have a Release file",
    Reason.NOT_TRUSTED: r"NO_PUBKEY|not signed|signatures? (couldn't|were invalid)|is expired"
    r"|is not valid yet|GPG error",
    Reason.NO_PACKAGE: r"Unable to locate package|Unable to find a source package|No packages found"
    r"|has no installation candidate|Can't select candidate",
}
SAID = {
    Reason.NOT_FOUND: "the mirror lists {file} and answers 404",
    Reason.HTTP_STATUS: "the mirror answers {status} for {file}",
    Reason.DAMAGED: "the mirror's {file} has the wrong size or hash",
    Reason.UNRESOLVED: "the name {host} does not resolve",
    Reason.NO_NETWORK: "no network, or {host} does not answer",
    Reason.NO_PACKAGE: "it has no {package}",
    Reason.NO_SUITE: "the mirror has no such suite",
    Reason.NOT_TRUSTED: "its signature is missing, wrong or out of date",
    Reason.NO_SPACE: "the disk is full",
    Reason.OTHER: "apt failed ({line})",
}
REMEDY = {
    Reason.NOT_FOUND: "the mirror is incomplete: try again later or use another in apt's sources",
    Reason.HTTP_STATUS: "try again later or use another mirror in apt's sources",
    Reason.DAMAGED: "the mirror is being changed: try again later or use another in apt's sources",
    Reason.UNRESOLVED: "correct the name in apt's sources or proxy, or the name server",
    Reason.NO_NETWORK: "connect to the network",
    Reason.NO_PACKAGE: "name a suite in configs/ that has it",
    Reason.NO_SUITE: "name a suite in configs/ that the mirror has",
    Reason.NO_MIRROR: "run `apt-get update`, or add a Debian source to apt's",
    Reason.NOT_TRUSTED: "update debian-archive-keyring, and look at this machine's clock",
    Reason.NO_SPACE: "free some of it",
    Reason.OTHER: "see what it said",
}
# With one of these, nothing else can be fetched either.
EVERYWHERE = {Reason.UNRESOLVED, Reason.NO_NETWORK, Reason.NO_MIRROR, Reason.NO_SPACE}
URL = re.compile(r"Failed to fetch (?P<url>\S+)(?: +(?P<status>\d{3}) )?")
HOST = re.compile(r"(?:resolv\w+|connect to) '?(?P<host>[^\s']+?):?(?:['\s]|$)")
PACKAGE = re.compile(r"(?:package|source package for) (?P<package>\S+)")


class Unavailable(MissingError):
    """Something could not be fetched from a suite.

    Args:
        reason: the kind of failure.
        why: in words, without the suite.
        detail: what apt said.

    Attributes:
        everywhere: nothing else can be fetched either, from this suite or another.
    """

    def __init__(self, reason: Reason, why: str, detail: str = "") -> None:
        super().__init__(f"{why}: {REMEDY[reason]}", detail)
        self.reason = reason
        self.why = why
        self.everywhere = reason in EVERYWHERE


def unavailable(said: str, wanted: str) -> Unavailable:
    """The failure that apt printed.

    Args:
        said: its standard error.
        wanted: what it was to fetch, for the message.
    """
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("E:")] or lines[-5:]
    for reason, words in WORDS.items():
        for line in errors:
            if re.search(words, line):
                return Unavailable(reason, _why(reason, line, wanted), "\n".join(errors))
    return Unavailable(Reason.OTHER, _why(Reason.OTHER, _first(errors), wanted), "\n".join(errors))


def _first(errors: Sequence[str]) -> str:
    return errors[0].removeprefix("E:").strip() if errors else "it said nothing"


def _why(reason: Reason, line: str, wanted: str) -> str:
    fetched, connected, named = URL.search(line), HOST.search(line), PACKAGE.search(line)
    url = urlsplit(fetched["url"]) if fetched else None
    return SAID[reason].format(
        file=unquote(url.path.rpartition("/")[2]) if url else "file",
        status=fetched["status"] if fetched else "",
        host=connected["host"] if connected else (url and url.hostname) or "the mirror",
        package=named["package"] if named else wanted,
        line=line,
    )
