"""What a patch changes of what an earlier patch of its topic wrote, read from the patches alone.

A topic is sent as one series. If a function comes in one patch and is written anew in a later
one, a reviewer reads it twice: it should be right from the start.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from qap.fork.patch import FILE, Patch
from qap.host.errors import QapError

HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)")
# So many lines may be all that a patch writes in one of upstream's functions, or an argument more.
FEW = 3
SOURCES = (".c", ".c.inc")
# A line that starts in the first column, unless it is a label or all of a declaration.
BEGINS = re.compile(r"[A-Za-z_](?!.*;$)(?!\w*:$)")
CALLED = re.compile(r"(\w+) ?\(")


@dataclass(frozen=True)
class Rewrite:
    """A patch that writes anew what an earlier one of its topic wrote in a function.

    Attributes:
        written: how many lines the earlier patch wrote there; blank ones and braces don't count.
        changed: how many of them the later patch takes away or changes.
        head: whether the function's first line is among those.
    """

    earlier: str
    later: str
    file: str
    function: str
    written: int
    changed: int
    head: bool

    @property
    def small(self) -> bool:
        """Whether it is no rewrite: at most a third, or a few lines and not all of a function."""
        whole = self.head and self.changed == self.written
        return 3 * self.changed <= self.written or (self.changed <= FEW and not whole)

    def __str__(self) -> str:
        return (
            f"{self.later} changes {self.changed} of the {self.written} lines that {self.earlier} "
            f"writes in {self.function} of {self.file}: let {self.earlier} write them as they stay"
        )


@dataclass(eq=False)
class _Line:
    """A line of a file.

    Attributes:
        by: the patch that wrote it; None if it is the base's.
        function: the function, type or table that it is part of; "" if none or not known.
        head: whether it begins that.
    """

    text: str
    by: Patch | None = None
    function: str = ""
    head: bool = False

    @property
    def counts(self) -> bool:
        return bool(self.by and self.function and self.text.strip(" {};"))


@dataclass
class _File:
    """What patches show of a file; None is a line that no patch has shown yet."""

    lines: list[_Line | None] = field(default_factory=list)

    def apply(self, patch: Patch, name: str, hunks: Iterable["_Hunk"]) -> list[_Line]:
        """Apply hunks in their order; returns the lines that are gone."""
        gone: list[_Line] = []
        shift = 0
        for hunk in hunks:
            begin = hunk.begin + shift
            end = begin + hunk.length
            self.lines += [None] * (end - len(self.lines))
            there = iter(self.lines[begin:end])
            put: list[_Line | None] = []
            function = _begun(hunk.heading)
            for sign, text in hunk.body:
                line = _Line(text, patch) if sign == "+" else next(there) or _Line(text)
                if line.text != text:
                    raise QapError(
                        f"{patch.name} shows line {begin + len(put) + 1} of {name} in another "
                        "place than patches before it: ./qap tree, and then ./qap refresh"
                    )
                line.head = bool(_begun(text))
                function = _begun(text) or function
                line.function = line.function or function
                if text.startswith("}"):
                    function = ""
                if sign == "-":
                    gone.append(line)
                else:
                    put.append(line)
            self.lines[begin:end] = put
            shift += len(put) - hunk.length
        return gone


@dataclass(frozen=True)
class _Hunk:
    """A hunk: from line `begin`, counted from 0, `length` lines become others."""

    begin: int
    length: int
    heading: str
    body: list[tuple[str, str]]


def rewrites(patches: Iterable[Patch]) -> list[Rewrite]:
    """All changes of a patch to what an earlier one of its topic wrote, in the queue's order.

    Only functions, types and tables in C files are looked at.

    Args:
        patches: a queue from its first patch on, with the line numbers that git wrote.
    Raises:
        QapError: the line numbers of a patch are not those that the patches before it lead to.
    """
    files: dict[str, _File] = {}
    written: Counter[tuple[str, str, str]] = Counter()
    found = []
    for patch in patches:
        changed: dict[tuple[str, str, str], list[_Line]] = {}
        for name, hunks in _files(patch.diff).items():
            if not name.endswith(SOURCES):
                continue
            file = files.setdefault(name, _File())
            gone = file.apply(patch, name, hunks)
            for line in file.lines:
                if line and line.by is patch and line.counts:
                    written[patch.name, name, line.function] += 1
            for line in gone:
                if line.by and line.by.topic == patch.topic and line.counts:
                    changed.setdefault((line.by.name, name, line.function), []).append(line)
        for key, lines in changed.items():
            earlier, name, function = key
            head = any(line.head for line in lines)
            found.append(
                Rewrite(earlier, patch.name, name, function, written[key], len(lines), head)
            )
    return found


def _begun(text: str) -> str:
    """The name of what a line begins; "" if it begins nothing."""
    if not BEGINS.match(text):
        return ""
    match = CALLED.search(text)
    return f"{match[1]}()" if match else text.strip(" ={")


def _files(diff: str) -> dict[str, list[_Hunk]]:
    """The hunks of a diff by file."""
    files: dict[str, list[_Hunk]] = {}
    hunks: list[_Hunk] = []
    old = new = 0
    for text in diff.splitlines():
        if old or new:
            sign = text[:1] or " "
            if sign == "\\":
                continue
            hunks[-1].body.append((sign, text[1:]))
            old -= sign != "+"
            new -= sign != "-"
        elif match := FILE.match(text):
            hunks = files.setdefault(match[1], [])
        elif match := HUNK.match(text):
            old, new = (int(number or 1) for number in (match[2], match[4]))
            # Where nothing is taken away, the number is that of the line above.
            hunks.append(_Hunk(int(match[1]) - (old > 0), old, match[5], []))
    return files
