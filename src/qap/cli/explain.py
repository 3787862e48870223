"""The verb explain: from a command line or an error text to the reason."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from qap.cli.options import Json, Profile
from qap.explain.backend import Kind, Told, of_bits, told
from qap.explain.explanation import Explanation
from qap.explain.explanation import explain as explained
from qap.fork.build import Build
from qap.host.errors import QapError, UsageError
from qap.host.report import Report

STDIN = "-"
# Nobody has a log of more than that; it is read whole.
LARGEST = 64 << 20


def explain(
    file: Annotated[
        str | None,
        typer.Argument(help="A command line, a log or a script that has one; - is stdin."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="ID=FEATURES of a back-end, such as fs0=ACCESS_PLATFORM or fs0=none."),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask back-ends that listen; some end after that.")
    ] = False,
    error: Annotated[
        str | None, typer.Option(help="Instead of a command line: an error text.")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Plug the devices on stock QEMU and on the fork, too.")
    ] = False,
    minimize: Annotated[
        bool, typer.Option("--minimize", help="The smallest machine that refuses the same device.")
    ] = False,
    profile: Profile = "lab",
    json: Json = None,
) -> None:
    """Why a virtio device is refused or not served, from what you have."""
    from qap.cli.finish import finish

    if error is not None:
        if file is not None or backend or ask or run or minimize:
            raise UsageError("--error stands alone: leave out the file and all other options")
        finish(_text(error), json)
    from qap.explain.as_json import as_json
    from qap.explain.show import show

    began = time.monotonic()
    data, name, folder = _input(file or STDIN)
    known = dict(told(text) for text in backend or [])
    explanation = explained(data, name, folder, known)
    if ask:
        explanation = explained(data, name, folder, {**_asked(explanation, known), **known})
    show(explanation)
    results = [as_json(one) for one in explanation.predictions]
    if run or minimize:
        _run(explanation, Build(profile), json, results, minimize=minimize)
    finish(Report("explain", True, time.monotonic() - began, results), json)


def _run(
    explanation: Explanation,
    fork: Build,
    json: Path | None,
    results: list[dict[str, object]],
    *,
    minimize: bool,
) -> NoReturn:
    """Try what was predicted, or look for the smallest machine; show it, and end."""
    from qap.cli.finish import finish
    from qap.fork.build import make
    from qap.scenario import rerun as running
    from qap.scenario import smallest

    began = time.monotonic()
    base = Build(fork.profile, is_base=True)
    if minimize:
        smallest.chosen(explanation)
    make(base)
    make(fork)
    if minimize:
        found = smallest.smallest(explanation, base, fork)
        smallest.show(found, explanation.machine.target)
        results.append({"smallest": smallest.as_json(found, explanation.machine.target)})
        finish(Report("explain", True, time.monotonic() - began, results), json, [fork, base])
    done = running.rerun(explanation, base, fork)
    running.show(done)
    for problem in running.problems(done):
        print(f"not as predicted: {problem}")
    results += [{"run": running.as_json(one)} for one in done]
    report = Report("explain", all(one.ok for one in done), time.monotonic() - began, results)
    finish(report, json, [fork, base])


def _text(error: str) -> Report:
    """Show what an error text means."""
    from qap.explain.error_texts import find
    from qap.explain.show_text import show_texts

    began = time.monotonic()
    found = find(error)
    if not found:
        raise UsageError(
            "no error text like that is known: give the whole line, or the command line instead"
        )
    show_texts(found)
    results = [{**one.text.model_dump(mode="json"), "exact": one.exact} for one in found]
    return Report("explain", True, time.monotonic() - began, results)


def _input(file: str) -> tuple[bytes, str, Path]:
    """What was given, its name, and the folder that it is in."""
    if file == STDIN:
        if sys.stdin.isatty():
            print("Paste a command line of QEMU or a log, then press Ctrl-D.", file=sys.stderr)
        return _whole(sys.stdin.buffer.read(LARGEST + 1), "stdin"), "stdin", Path()
    path = Path(file)
    try:
        with path.open("rb") as stream:
            return _whole(stream.read(LARGEST + 1), file), file, path.parent
    except OSError as exc:
        raise UsageError(f"{file}: {exc.strerror}") from exc


def _whole(data: bytes, name: str) -> bytes:
    if len(data) > LARGEST:
        raise UsageError(f"{name}: it has more than {LARGEST >> 20} MiB: cut out the last start")
    return data


def _asked(explanation: Explanation, known: Mapping[str, Told]) -> dict[str, Told]:
    """What live back-ends answer, by socket; says which do not."""
    from qap.vhost_user.asking import ask, lacking

    answers: dict[str, Told] = {}
    for socket in _sockets(explanation, known):
        try:
            features, protocol = ask(Path(socket))
        except QapError as exc:
            print(f"not asked: {exc}", file=sys.stderr)
        else:
            answers[socket] = of_bits(features, lacking(protocol))
    return answers


def _sockets(explanation: Explanation, known: Mapping[str, Told]) -> Sequence[str]:
    found = [
        name
        for one in explanation.predictions
        if one.backend.kind is Kind.PROGRAM and not set(one.backend.names) & set(known)
        for name in one.backend.names
        if name.startswith("/")
    ]
    return list(dict.fromkeys(found))
