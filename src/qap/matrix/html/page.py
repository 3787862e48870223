"""The matrix as one HTML page that needs nothing beside itself.

page.html.j2 holds what is there without JavaScript (title, facts, counts), page.css how it
looks and script/ the grid. The cells travel in a script element as JSON, packed: a column
for each field, with each of its distinct values once.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qap.oracle.features import FeatureBit

HERE = Path(__file__).parent
SCRIPTS = ("cells", "state", "elements", "details", "list", "pivot", "page")
"""The files of script/, which make up one script in this order."""

VERDICTS = ("mismatch", "error", "known", "skip", "match")
"""In the order in which a reader wants them."""

NOT_THERE = -1
"""In a packed column: the row lacks this field."""

_WORD = re.compile(r"[^ /]*[ /]|[^ /]+")

Cell = Mapping[str, Any]


def render(sides: Mapping[str, Sequence[Cell]], *, title: str, facts: Mapping[str, str]) -> str:
    """The page.

    Args:
        sides: the cells of each build, such as fork and base, first the one that matters most.
            Cells of the same id ("cell") share a row, and the axes of whichever came first.
        title: what the page is called.
        facts: shown at the top: versions, date, duration, command.
    Raises:
        ValueError: a number in a cell is not finite, so that JSON has no word for it.
    """
    jinja = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # tojson escapes what could end the script element; json.dumps escapes U+2028.
    jinja.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return jinja.get_template("page.html.j2").render(
        title=title,
        facts=facts,
        verdicts=VERDICTS,
        counts={side: Counter(cell["verdict"] for cell in cells) for side, cells in sides.items()},
        gaps=_gaps(sides),
        cells=pack(sides),
        style=Markup((HERE / "page.css").read_text()),
        script=Markup("\n".join(_script(name) for name in SCRIPTS)),
    )


def _script(name: str) -> str:
    return (HERE / "script" / f"{name}.js").read_text()


def pack(sides: Mapping[str, Sequence[Cell]]) -> dict[str, Any]:
    """What script/cells.js unpacks.

    words: the pieces of which all strings are made.
    verdicts: in the order in which the rows are shown.
    feature_bits: their names by number.
    ids: a column. axes: a column by name. sides: for each side a column by the name of a
    field; those of "expected" and "seen" are called "expected.outcome" and so on.

    A column has `values`, its distinct values, and `rows`, for each row which of the values
    it has or NOT_THERE. A string is {"words": [number of a word, ...]}, a nested object
    {"object": {...}}, any other value is itself.
    """
    rows: dict[str, int] = {}
    for cells in sides.values():
        for cell in cells:
            rows.setdefault(cell["cell"], len(rows))
    words = _Words()
    ids = _Column(len(rows), words)
    for name, row in rows.items():
        ids.put(row, name)
    axes = _Columns(len(rows), words)
    fields = {side: _Columns(len(rows), words) for side in sides}
    for side, cells in sides.items():
        for cell in cells:
            row = rows[cell["cell"]]
            for name, value in cell["axes"].items():
                axes[name].put(row, value)
            for name, value in _fields(cell):
                fields[side][name].put(row, value)
    return {
        "verdicts": VERDICTS,
        "feature_bits": {int(bit): bit.name for bit in FeatureBit},
        "ids": ids.packed(),
        "axes": axes.packed(),
        "sides": {side: columns.packed() for side, columns in fields.items()},
        "words": list(words.numbers),
    }


class _Words:
    """Every piece of a string once; commands and ids are mostly the same few pieces."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def pack(self, value: Any) -> Any:
        match value:
            case str():
                return {"words": [self._number(word) for word in _WORD.findall(value)]}
            case Mapping():
                return {"object": {key: self.pack(item) for key, item in value.items()}}
            case list() | tuple():
                return [self.pack(item) for item in value]
            case _:
                return value

    def _number(self, word: str) -> int:
        return self.numbers.setdefault(word, len(self.numbers))


class _Column:
    """One field of all rows; see pack."""

    def __init__(self, rows: int, words: _Words) -> None:
        self._rows = [NOT_THERE] * rows
        self._words = words
        self._values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def put(self, row: int, value: Any) -> None:
        """Set the field of a row that has none yet; what is there stays."""
        if self._rows[row] != NOT_THERE:
            return
        key = repr(value)
        if key not in self._numbers:
            self._numbers[key] = len(self._values)
            self._values.append(self._words.pack(value))
        self._rows[row] = self._numbers[key]

    def packed(self) -> dict[str, Any]:
        return {"values": self._values, "rows": self._rows}


class _Columns(defaultdict[str, _Column]):
    """Columns by name; one is there as soon as it is asked for."""

    def __init__(self, rows: int, words: _Words) -> None:
        super().__init__(lambda: _Column(rows, words))

    def packed(self) -> dict[str, Any]:
        return {name: column.packed() for name, column in self.items()}


def _fields(cell: Cell) -> Iterator[tuple[str, Any]]:
    """The fields that belong to a side, without those that say nothing."""
    for name, value in cell.items():
        if name in {"cell", "axes"}:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", item) for key, item in value.items() if item is not None)
        elif value not in (None, "", []):
            yield name, value


def _gaps(sides: Mapping[str, Sequence[Cell]]) -> dict[str, dict[str, int]]:
    """How many cells of each side each gap explains, the most common gap first."""
    counts = {
        side: Counter(cell["gap"] for cell in cells if cell["gap"]) for side, cells in sides.items()
    }
    total = sum(counts.values(), Counter[str]())
    return {gap: {side: counts[side][gap] for side in sides} for gap, _ in total.most_common()}
