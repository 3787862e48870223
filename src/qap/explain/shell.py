"""Words of a shell command: quotes, line continuations, comments and variables."""

import re
import shlex
from collections.abc import Mapping

from qap.host.errors import UsageError

CONTINUED = re.compile(r"\\\r?\n")
ASSIGNMENT = re.compile(r"(?m)^[ \t]*(?:export[ \t]+|local[ \t]+|readonly[ \t]+)?(\w+)=(.*)$")
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
# Where a command ends that another one follows.
ENDS = frozenset([";", "&", "&&", "||", "|", "2>&1", ">", ">>", "<"])


def joined(text: str) -> str:
    """Text with its continued lines in one."""
    return CONTINUED.sub(" ", text)


def words(command: str, variables: Mapping[str, str]) -> list[str]:
    """The words of one command, up to what separates it from the next one.

    Args:
        variables: what stands for $NAME outside of single quotes; others stay as they are.
    Raises:
        UsageError: a quote is not closed.
    """
    lexer = shlex.shlex(expanded(command, variables), posix=True, punctuation_chars="")
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[str] = []
    try:
        for word in lexer:
            if word in ENDS or word.startswith("#"):
                break
            if word.endswith(";") and not word.endswith("\\;"):
                found.append(word[:-1])
                break
            found.append(word)
    except ValueError as exc:
        shown = " ".join(command.split())[:60]
        raise UsageError(f"a quote of this command does not close: {shown}…") from exc
    return found


def assignments(text: str) -> dict[str, str]:
    """Variables that a script sets to plain words; the last value of each."""
    known: dict[str, str] = {}
    for name, value in ASSIGNMENT.findall(text):
        try:
            parts = words(value, known)
        except UsageError:
            continue
        if len(parts) <= 1 and not value.startswith("("):
            known[name] = parts[0] if parts else ""
        elif value.startswith(("'", '"')):
            known[name] = parts[0]
    return known


def expanded(command: str, variables: Mapping[str, str]) -> str:
    """The command with its known variables replaced outside of single quotes."""
    if not variables or "$" not in command:
        return command
    parts, quoted, start = [], False, 0
    double = False
    for position, character in enumerate(command):
        if character == '"' and not quoted and command[position - 1 : position] != "\\":
            double = not double
        if character != "'" or double:
            continue
        parts.append(_replaced(command[start:position], variables, plain=quoted))
        start, quoted = position, not quoted
    parts.append(_replaced(command[start:], variables, plain=quoted))
    return "".join(parts)


def _replaced(text: str, variables: Mapping[str, str], *, plain: bool) -> str:
    if plain:
        return text

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], match[0])

    return VARIABLE.sub(value, text)
