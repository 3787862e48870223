"""The moves that a walk is made of, by name, each with how often it is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from qap.measure.hostile.driver import HostileDriver

Act = Callable[[HostileDriver, Random], None]


@dataclass(frozen=True)
class Move:
    """Something that a hostile driver does.

    Attributes:
        weight: how often it is drawn, beside the others.
        only: the start of the names of devices that it is for; any if empty.
    """

    name: str
    act: Act
    weight: int
    only: tuple[str, ...] = ()


MOVES: dict[str, Move] = {}


def move(weight: int, *only: str) -> Callable[[Act], Act]:
    """Add a function to the moves, under its own name.

    Args:
        only: see `Move`.
    """

    def added(act: Act) -> Act:
        name = act.__name__.replace("_", "-")
        assert name not in MOVES
        MOVES[name] = Move(name, act, weight, only)
        return act

    return added
