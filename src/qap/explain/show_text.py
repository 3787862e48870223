"""What an error text means, on a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from qap.explain.error_texts import ErrorText, Found
from qap.explain.rows import row, wrapped

BY = {
    "qemu": "QEMU",
    "fork": "the fork",
    "linux": "the guest's kernel, Linux",
}


def show_texts(found: Sequence[Found]) -> None:
    """Print what texts mean."""
    console = Console(highlight=False)
    width = min(console.width, 100)
    for number, one in enumerate(found):
        if number:
            console.print()
        if not one.exact:
            console.print("[yellow]Not known; the nearest that is:[/]")
        for line in lines(one.text, width):
            console.print(line, soft_wrap=True)


def lines(text: ErrorText, width: int) -> Iterator[str]:
    """The lines about a text, with rich's markup."""
    yield from (f"[bold]{line}[/]" for line in wrapped(f"“{text.text}”", width))
    yield from row("said by", BY[text.by], width)
    yield from row("meaning", text.meaning, width)
    rows = {(facts.expected.why, facts.expected.clause): facts.expected for facts in text.rows}
    for number, expected in enumerate(rows.values()):
        yield from row("row" if number == 0 else "or row", expected.why, width)
        yield from row("must be", expected.outcome, width, expected.outcome)
        yield from row("clause", expected.clause, width)
    for number, one in enumerate(text.remedies):
        yield from row("remedy" if number == 0 else "or", one, width)
