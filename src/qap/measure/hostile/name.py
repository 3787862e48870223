"""The name of an episode: a seed and a number, from which everything about it follows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from qap.host.errors import UsageError

# Consecutive episodes that share a QEMU, and so a target.
BATCH = 10
_NAMES = re.compile(r"(\d+):(\d+(?:,\d+)*)")


@dataclass(frozen=True, order=True)
class EpisodeName:
    """An episode, written as SEED:NUMBER."""

    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> list["EpisodeName"]:
        """The episodes that a user names: one, or several that share a QEMU, SEED:NUMBER,NUMBER.

        Raises:
            UsageError: it names none.
        """
        match = _NAMES.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} names no episode: write SEED:NUMBER, such as 1:42")
        names = [cls(int(match[1]), int(number)) for number in match[2].split(",")]
        if len({name.batch for name in names}) > 1:
            raise UsageError(f"the episodes {text} have different targets and share no QEMU")
        return names

    @staticmethod
    def together(names: Sequence["EpisodeName"]) -> str:
        """What `parse` takes for these."""
        return f"{names[0].seed}:" + ",".join(str(name.number) for name in names)

    @property
    def batch(self) -> int:
        """The number of the batch that it belongs to."""
        return self.number // BATCH

    def random(self) -> Random:
        """The source of everything that is drawn for it."""
        return Random(f"episode {self}")


def step_numbers(text: str) -> tuple[int, ...]:
    """The steps that a user names.

    Raises:
        UsageError: it is no list of numbers.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UsageError(f"{text!r} names no steps: write their numbers, such as 0,3,7")
    return tuple(int(number) for number in text.split(","))
