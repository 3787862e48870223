"""From an error text to the row of the fence table (configs/error-texts.toml)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.oracle import fence
from qap.oracle.fence import Expectation, Legacy

PATH = data() / "error-texts.toml"
GAP = "…"
# Less of a text could be of any; more of it that is nearly right is a text of another version.
SHORTEST = 12
NEAR = 80.0
MARKS = str.maketrans("\u2018\u2019\u201c\u201d`", "''\"\"'")


class Facts(Model):
    """What decides about a device; see `qap.oracle.fence.plug` and `driven`."""

    requested: bool
    translated: bool
    backend_can: bool
    legacy: Legacy = ""
    version_1: bool = True
    is_iommu: bool = False
    reachable: bool = True
    declines: bool = False
    demands: bool = False

    @property
    def expected(self) -> Expectation:
        """The row of the fence table."""
        plugged = fence.plug(
            requested=self.requested,
            translated=self.translated,
            backend_can=self.backend_can,
            legacy=self.legacy,
            version_1=self.version_1,
            is_iommu=self.is_iommu,
            reachable=self.reachable,
        )
        return fence.driven(plugged, declines=self.declines, demands=self.demands)


class ErrorText(Model):
    """A text; the file says what the keys mean."""

    text: str
    by: Literal["qemu", "fork", "linux"]
    meaning: str
    rows: tuple[Facts, ...] = ()
    remedies: tuple[str, ...]

    @cached_property
    def parts(self) -> list[str]:
        """What of it stays the same, as `plain` has it."""
        return [plain(part) for part in self.text.split(GAP)]

    def is_in(self, said: str) -> bool:
        """Whether all of it is in a text, in its order."""
        return re.search(".*?".join(map(re.escape, self.parts)), said) is not None


class ErrorTexts(Model):
    """The whole file."""

    text: tuple[ErrorText, ...]


@dataclass(frozen=True)
class Found:
    """A text that is, or may be, the one that somebody has.

    Attributes:
        exact: it is; otherwise it is the nearest one.
    """

    text: ErrorText
    exact: bool


@cache
def error_texts() -> tuple[ErrorText, ...]:
    """The texts; raises UsageError if the file is wrong."""
    return checked(ErrorTexts, read(PATH), PATH).text


def plain(text: str) -> str:
    """A text as it is compared: in lower case, with single spaces and straight quotes."""
    return " ".join(text.translate(MARKS).lower().split())


def find(said: str) -> Sequence[Found]:
    """The texts that somebody's error is, longest first; or the nearest one; or none.

    An error may have more around it, such as what libvirt puts before it, or be a part.
    """
    wanted = plain(said)
    if len(wanted) < SHORTEST:
        return []
    whole = [one for one in error_texts() if one.is_in(wanted)]
    if whole:
        longest = max(whole, key=lambda one: len(one.text))
        return [Found(longest, True)]
    within = [one for one in error_texts() if any(wanted in part for part in one.parts)]
    if within:
        return [Found(one, True) for one in within]
    return _nearest(wanted)


def _nearest(wanted: str) -> Sequence[Found]:
    from rapidfuzz import fuzz

    scored = [(fuzz.partial_ratio(wanted, plain(one.text)), one) for one in error_texts()]
    score, best = max(scored, key=lambda pair: pair[0])
    return [Found(best, False)] if score >= NEAR else []


def in_log(text: str) -> Sequence[ErrorText]:
    """The texts that lines of a log have, each once."""
    folded = text.translate(MARKS).lower()
    possible = [one for one in error_texts() if one.parts[0] in folded]
    found: dict[str, ErrorText] = {}
    for line in folded.splitlines() if possible else []:
        whole = [one for one in possible if one.parts[0] in line and one.is_in(plain(line))]
        if whole:
            longest = max(whole, key=lambda one: len(one.text))
            found.setdefault(longest.text, longest)
    return list(found.values())
