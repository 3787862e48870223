"""The value of an option as QEMU takes it: `key=value,…`, or JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from qap.host.errors import UsageError

Value = str | bool | int | float | None
ON = frozenset(["on", "yes", "true", "y"])
OFF = frozenset(["off", "no", "false", "n"])


@dataclass(frozen=True)
class Opts:
    """Keys and values in the order given; what stands later wins.

    Nested JSON is flat here, with its keys joined by dots, as keyval options write it.
    """

    pairs: tuple[tuple[str, str], ...]

    def get(self, *keys: str, default: str = "") -> str:
        """The last value of a key or of another spelling of it."""
        wanted = {spelling(key) for key in keys}
        found = [value for key, value in self.pairs if spelling(key) in wanted]
        return found[-1] if found else default

    def has(self, *keys: str) -> bool:
        wanted = {spelling(key) for key in keys}
        return any(spelling(key) in wanted for key, _ in self.pairs)

    def joined(self, other: "Opts") -> "Opts":
        """With other's pairs after its own."""
        return Opts(self.pairs + other.pairs)


def spelling(key: str) -> str:
    """A key as QEMU's properties of today spell it."""
    return key.replace("_", "-")


def boolean(value: str) -> bool | None:
    """What QEMU takes a value for; None if for neither."""
    lowered = value.lower()
    return True if lowered in ON else False if lowered in OFF else None


def parse(text: str, implied: str = "") -> Opts:
    """Parse the value of an option.

    In `key=value,…` a doubled comma is a comma of the value. A word without “=” is a boolean
    that is on, or off if it begins with “no”; the first one is the value of the implied key.

    Args:
        implied: the key of a first word without “=”.
    Raises:
        UsageError: it begins with { and is no JSON object.
    """
    if text.startswith("{"):
        return _parse_json(text)
    pairs = []
    for number, part in enumerate(_parts(text)):
        key, equals, value = part.partition("=")
        if equals:
            pairs.append((key, value))
        elif number == 0 and implied:
            pairs.append((implied, part))
        elif key.startswith("no") and len(key) > len("no"):
            pairs += [(key, "on"), (key[2:], "off")]
        elif key:
            pairs.append((key, "on"))
    return Opts(tuple(pairs))


def _parts(text: str) -> Iterator[str]:
    part = ""
    position = 0
    while position < len(text):
        if text.startswith(",,", position):
            part += ","
            position += 2
        elif text[position] == ",":
            yield part
            part = ""
            position += 1
        else:
            part += text[position]
            position += 1
    yield part


def _parse_json(text: str) -> Opts:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise UsageError(f"this JSON can't be read ({exc}): {text[:60]}") from exc
    return from_object(value)


def from_object(value: object) -> Opts:
    """A JSON object as options."""
    return Opts(tuple(_flat(value, "")))


def _flat(value: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{number}")
    elif isinstance(value, bool):
        yield prefix, "on" if value else "off"
    elif value is not None:
        yield prefix, str(value)
