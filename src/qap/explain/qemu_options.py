"""Which options QEMU has, and which of them take a value."""

from functools import cache

from qap.explain.knowledge import knowledge


@cache
def with_value() -> frozenset[str]:
    """Options that a value follows."""
    known = knowledge().options
    return frozenset(f"{known.with_value} {known.gone_with_value}".split())


@cache
def _known() -> frozenset[str]:
    known = knowledge().options
    return with_value() | frozenset(f"{known.alone} {known.gone_alone}".split())


def option_name(word: str) -> str | None:
    """The name of an option, which may have one dash or two; None if the word is none."""
    if not word.startswith("-"):
        return None
    name = word[2:] if word.startswith("--") else word[1:]
    return name if name in _known() else None
