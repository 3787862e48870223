"""Where in a text QEMU's command line is: the last start in it, and what comes after."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qap.explain import shell
from qap.explain.qemu_options import option_name, with_value
from qap.host.errors import UsageError

PROGRAM = r"(?:[^\s'\"=()\[\]]*/)?(?:qemu-system-[\w-]+|qemu-kvm|kvm-spice|kvm)"
STARTS = re.compile(rf"(?:^|(?<=[\s'\"=(\[]))({PROGRAM})['\"]?\s+['\"]?-")
# What a line with options has; looked for first, as a log has many lines without.
OPTION = (" -", "\t-", " '-", ' "-')
LAUNCHES = re.compile(rf"launching ({PROGRAM}) with: \[(.*?)\](?:\"|\s|$)")
CONFIG_GROUP = re.compile(r'(?m)^\s*\[\w[\w-]*(?:\s+"[^"]*")?\]\s*$')
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
# A quoted word may go over lines; nobody writes one over more than these.
LINES = 400
# Variables are looked for in what may be a script; a log is longer.
SCRIPT_BYTES = 1 << 20


class Form(StrEnum):
    """The shape that a command line was found in."""

    SHELL = "a shell line"
    PROC = "/proc/PID/cmdline"
    LAUNCH = "a log that says “launching … with: [ … ]”"
    ARRAY = "a JSON array"
    CONFIG = "a -readconfig file"


@dataclass(frozen=True)
class Start:
    """A command line.

    Attributes:
        words: of the command line, the program first; "" if only a configuration file is there.
        starts: how many there are in the text; this is the last one.
        line: where it begins, from 1.
        after: the text after it: what QEMU said, and what it was told on its monitor.
        config: a -readconfig file that was given instead of a command line.
    """

    words: tuple[str, ...]
    form: Form
    starts: int = 1
    line: int = 1
    after: str = ""
    config: str = ""


def find(data: bytes, name: str) -> Start:
    """The last command line of QEMU in what somebody has.

    Args:
        name: of the file, for errors.
    Raises:
        UsageError: it is not text, has no command line, or one with an open quote.
    """
    if not data.strip():
        raise UsageError(f"{name}: it is empty: give a command line of QEMU, or a log that has one")
    if b"\0" in data and (start := _of_process(data)):
        return start
    try:
        text = TERMINAL.sub("", data.decode())
    except UnicodeDecodeError as exc:
        raise _binary(name) from exc
    if CONTROL.search(text):
        raise _binary(name)
    text = text.replace("\r\n", "\n")
    if start := _array(text) or _launched(text) or _shell(text, name):
        return start
    if CONFIG_GROUP.search(text):
        return Start(("",), Form.CONFIG, config=text)
    if text.lstrip().startswith("<dom"):
        raise UsageError(
            f"{name}: that is libvirt's XML: give what "
            "`virsh domxml-to-native qemu-argv` makes of it"
        )
    raise UsageError(
        f"{name}: no command line of QEMU is in it (qemu-system-… or kvm, and options)"
    )


def _binary(name: str) -> UsageError:
    return UsageError(f"{name}: it is no text: give a command line of QEMU, or a log that has one")


def _of_process(data: bytes) -> Start | None:
    """What /proc/PID/cmdline has: words that end with NUL."""
    try:
        words = data.removesuffix(b"\n").removesuffix(b"\0").decode().split("\0")
    except UnicodeDecodeError:
        return None
    if not re.fullmatch(PROGRAM, words[0]) or any(CONTROL.search(word) for word in words):
        return None
    return Start(tuple(words), Form.PROC)


def _array(text: str) -> Start | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    if not words or not re.fullmatch(PROGRAM, words[0]):
        return None
    return Start(tuple(words), Form.ARRAY)


def _launched(text: str) -> Start | None:
    """What a log shows in brackets: words with nothing around those that have spaces."""
    found = list(LAUNCHES.finditer(text))
    if not found:
        return None
    last = found[-1]
    words = _gathered(last[2].replace('\\"', '"').split())
    line = text.count("\n", 0, last.start()) + 1
    return Start((last[1], *words), Form.LAUNCH, len(found), line, after=text[last.end() :])


def _gathered(words: Sequence[str]) -> list[str]:
    """Words with the parts of an option's value together again."""
    found: list[str] = []
    for word in words:
        continues = (
            len(found) > 1
            and option_name(word) is None
            and option_name(found[-2]) in with_value()
            and option_name(found[-1]) is None
        )
        if continues:
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _shell(text: str, name: str) -> Start | None:
    variables = shell.assignments(text) if len(text) < SCRIPT_BYTES and "$" in text else {}
    programs = {
        spelled
        for variable, value in variables.items()
        if re.fullmatch(PROGRAM, value)
        for spelled in (f"${variable}", f"${{{variable}}}")
    }
    lines = _lines(text)
    found = []
    for number, (_, raw) in enumerate(lines):
        if not any(mark in raw for mark in OPTION) or raw.lstrip().startswith("#"):
            continue
        known = any(spelled in raw for spelled in programs)
        line = shell.expanded(raw, variables) if known else raw
        if match := STARTS.search(line):
            found.append((number, match.start(1), line))
    if not found:
        return None
    number, column, line = found[-1]
    if line[column - 1 : column] in ("'", '"'):
        column -= 1
    words, used = _words(line[column:], lines, number, variables, name)
    if " -" in words[0]:
        words = shell.words(words[0], variables)
    after = "\n".join(line for _, line in lines[number + 1 + used :])
    return Start(tuple(words), Form.SHELL, len(found), lines[number][0], after)


def _lines(text: str) -> list[tuple[int, str]]:
    """Lines with those that continue them, and the number of each."""
    found: list[tuple[int, str]] = []
    continues = False
    for number, line in enumerate(text.split("\n"), 1):
        head = line.rstrip("\r")
        goes_on = head.endswith("\\") and not head.endswith("\\\\")
        part = head[:-1] + " " if goes_on else head
        if continues:
            first, before = found[-1]
            found[-1] = (first, before + part)
        else:
            found.append((number, part))
        continues = goes_on
    return found


def _words(
    command: str,
    lines: Sequence[tuple[int, str]],
    number: int,
    variables: dict[str, str],
    name: str,
) -> tuple[list[str], int]:
    """The words of a command, and over how many further lines its quotes go."""
    error: UsageError | None = None
    for used in range(min(LINES, len(lines) - number)):
        if used:
            command += "\n" + lines[number + used][1]
        try:
            return shell.words(command, variables), used
        except UsageError as exc:
            error = error or exc
    raise UsageError(f"{name}: line {lines[number][0]}: {error}")
