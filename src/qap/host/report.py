"""Results: one object for JSON, a table for the terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qap import __version__
from qap.host.debian.taken import everything_taken

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """The results of a verb; documented in docs/json.md.

    Attributes:
        verb: bench, explain, fetch, lab, matrix, prove, repro, run, soak or test.
        ok: everything was as expected.
        results: an object for each row of the table.
        seconds: how long it took.
    """

    verb: str
    ok: bool
    seconds: float
    results: Sequence[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path, provenance: Mapping[str, object]) -> None:
        """Write it as a JSON object, each result on a line of its own.

        Args:
            provenance: further keys, which tell what was under test; `packages` are this
                computer's if they are not among them.
        """
        document = {
            "schema": SCHEMA,
            "version": __version__,
            "packages": [taken.model_dump(mode="json") for taken in everything_taken()],
            **provenance,
            "verb": self.verb,
            "ok": self.ok,
            "seconds": self.seconds,
        }
        head = json.dumps(document, indent=2).removesuffix("\n}")
        results = ",\n".join(json.dumps(result) for result in self.results)
        path.write_text(f'{head},\n  "results": [\n{results}\n]}}\n')


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells may have rich markup, so callers escape the output of programs."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        shown.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def good(text: str) -> str:
    return f"[green]{escape(text)}[/]"


def bad(text: str) -> str:
    return f"[red]{escape(text)}[/]"


def unsure(text: str) -> str:
    return f"[yellow]{escape(text)}[/]"


def shortened(bits: Sequence[int]) -> str:
    """Feature bits in ranges, such as “28-29 32-33”."""
    runs: list[list[int]] = []
    for bit in bits:
        if runs and bit == runs[-1][1] + 1:
            runs[-1][1] = bit
        else:
            runs.append([bit, bit])
    return " ".join(f"{low}-{high}" if low != high else f"{low}" for low, high in runs)
