"""An explanation on a terminal: what is refused or differs in full, the rest in a line."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from qap.explain.error_texts import in_log
from qap.explain.explanation import Explanation
from qap.explain.facts import Verdict
from qap.explain.prediction import Prediction
from qap.explain.rows import row, wrapped
from qap.oracle.fence import Outcome

# What a verdict is called where a guest is still to drive the device.
WORD = {Outcome.WORKS: "plugs", Outcome.REFUSED: "refused", Outcome.UNSERVED: "plugs, not served"}


def show(explanation: Explanation) -> None:
    """Print an explanation."""
    console = Console(highlight=False)
    width = min(console.width, 100)
    for line in lines(explanation, width):
        console.print(line, soft_wrap=True)


def lines(explanation: Explanation, width: int) -> Iterator[str]:
    """The lines of an explanation, with rich's markup.

    Args:
        width: of the terminal, in characters.
    """
    yield from wrapped(_head(explanation), width)
    for note in explanation.notes:
        yield from wrapped(f"note: {note}", width)
    plain = [one for one in explanation.predictions if _is_plain(one)]
    for prediction in explanation.predictions:
        if prediction not in plain:
            yield ""
            yield from _device(prediction, width)
    if plain:
        yield ""
        kinds = ", ".join(_named(one) for one in plain)
        yield from wrapped(f"{_count(plain)} on stock QEMU and on the fork: {kinds}", width)
    if not explanation.predictions:
        yield ""
        yield "It has no virtio device."
    for text in in_log(explanation.command.said):
        yield ""
        yield from wrapped(f"The log says “{text.text}”: {text.meaning}", width)
    if explanation.left:
        yield ""
        yield "[bold]Not understood, and it may matter:[/]"
        for left in explanation.left:
            yield from wrapped(left, width, "  ")


def _named(prediction: Prediction) -> str:
    driver = prediction.kind.driver
    return f"{prediction.item.id} ({driver})" if prediction.item.id else driver


def _count(plain: Sequence[Prediction]) -> str:
    if len(plain) == 1:
        return "1 virtio device plugs and is served"
    return f"{len(plain)} virtio devices plug and are served"


def _is_plain(prediction: Prediction) -> bool:
    return (
        all(one.same for one in prediction.verdicts)
        and not prediction.remarks
        and not prediction.missing
    )


def _head(explanation: Explanation) -> str:
    start, machine = explanation.start, explanation.machine
    found = start.form.value
    if start.starts > 1:
        found += f"; of {start.starts} starts the last one, in line {start.line}"
    iommus = explanation.buses.iommus
    iommu = iommus[-1] if iommus else "no IOMMU"
    confidential = f", confidential ({machine.confidential})" if machine.confidential else ""
    return f"{machine.shown}, {iommu}{confidential}; from {found}"


def _device(prediction: Prediction, width: int) -> Iterator[str]:
    place = f" on {prediction.bus}" if prediction.bus else ""
    transport = prediction.kind.transport.upper()
    hot = ", hot-plugged" if prediction.item.hot else ""
    name = f"{prediction.item.id}: " if prediction.item.id else ""
    title = f"{name}{prediction.kind.driver}{place} ({transport}{hot})"
    yield from (f"[bold]{line}[/]" for line in wrapped(title, width))
    shown = prediction.interface
    because = f": {shown.why}" if shown.why else ""
    yield from row("interface", f"{shown.shown}{because}", width)
    asked = "yes" if prediction.requested else "no"
    yield from row("requested", f"{asked}: {prediction.requested_by}", width)
    yield from row("translated", _translated(prediction), width)
    yield from row("back-end", _backend(prediction), width)
    if prediction.private:
        yield from row("memory", f"not shared: {prediction.private}", width)
    if prediction.missing:
        yield from row("", f"{prediction.missing} has no such device", width)
    for verdict in prediction.verdicts:
        yield from _verdict(prediction, verdict, width)
    for remark in prediction.remarks:
        yield from row("remark", remark, width)


def _translated(prediction: Prediction) -> str:
    words = {True: "yes", False: "no", None: "not known"}
    return f"{words[prediction.translation.translated]}: {prediction.translation.why}"


def _backend(prediction: Prediction) -> str:
    behind = prediction.backend
    needed = prediction.requested and prediction.translation.translated is not False
    need = "must translate" if needed else "need not translate"
    can = {True: "can", False: "can't", None: "whether it can is not known"}[behind.can]
    if behind.can is None and behind.names:
        hint = f"; tell it with --backend {behind.names[0]}=FEATURES, or --ask"
    else:
        hint = ""
    return f"{behind.kind.value}, {need}, {can}: {behind.why}{hint}"


def _verdict(prediction: Prediction, verdict: Verdict, width: int) -> Iterator[str]:
    if verdict.assumed:
        yield from row("if", verdict.assumed, width)
    if not prediction.missing:
        yield from _stock(verdict, width)
    outcome = verdict.driven.outcome
    yield from row("fork", WORD[outcome], width, outcome)
    yield from row("why", verdict.driven.why, width)
    yield from row("clause", verdict.driven.clause, width)
    for number, one in enumerate(verdict.remedies):
        yield from row("remedy" if number == 0 else "or", one, width)


def _stock(verdict: Verdict, width: int) -> Iterator[str]:
    outcome, stock = verdict.driven_on_stock, verdict.on_stock
    said = f": “{stock.error}”" if stock.error else ""
    yield from row("stock QEMU", f"{WORD[outcome]}{said}", width, outcome)
    if stock.fault:
        yield from row("", f"which is a fault: {stock.fault}", width)
