"""Rows with a label, and wrapped lines, with rich's markup."""

import textwrap
from collections.abc import Iterator

from rich.markup import escape

from qap.host.report import bad, good, unsure
from qap.oracle.fence import Outcome

LABEL = 12
COLOUR = {Outcome.WORKS: good, Outcome.REFUSED: bad, Outcome.UNSERVED: unsure}


def row(label: str, text: str, width: int, outcome: Outcome | None = None) -> Iterator[str]:
    """A label and a text beside it, as many lines as it takes; coloured by an outcome."""
    texts = textwrap.wrap(text, max(width - LABEL - 2, 20), break_on_hyphens=False) or [""]
    for number, line in enumerate(texts):
        head = f"{label if number == 0 else '':<{LABEL}}"
        shown = COLOUR[outcome](line) if outcome else escape(line)
        yield f"  {head}{shown}"


def wrapped(text: str, width: int, indent: str = "") -> Iterator[str]:
    """A text in lines of a width; all but the first are indented."""
    for line in textwrap.wrap(
        text,
        width,
        break_on_hyphens=False,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
    ):
        yield escape(line)
