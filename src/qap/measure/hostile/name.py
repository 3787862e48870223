"""The name of an episode: a seed and a number, from which everything about it follows."""

import re
from dataclasses import dataclass
from random import Random

from qap.host.errors import UsageError

# Consecutive episodes that share a QEMU, and so a target.
BATCH = 10
_NAMES = re.compile(r"(\d+):(\d+)(?:-(\d+))?")


@dataclass(frozen=True, order=True)
class EpisodeName:
    """An episode, written as SEED:NUMBER."""

    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> list["EpisodeName"]:
        """The episodes that a user names: one, or several that share a QEMU, SEED:FIRST-LAST.

        Raises:
            UsageError: it names none.
        """
        match = _NAMES.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} names no episode: write SEED:NUMBER, such as 1:42")
        first, last = int(match[2]), int(match[3] or match[2])
        if first > last or first // BATCH != last // BATCH:
            raise UsageError(f"the episodes {text} share no QEMU")
        return [cls(int(match[1]), number) for number in range(first, last + 1)]

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
