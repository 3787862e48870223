"""A walk: the moves of an episode, drawn from its name and nothing else."""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

# Each of these modules adds its moves.
from qap.measure.hostile import moves_machine as _machine  # noqa: F401
from qap.measure.hostile import moves_registers as _registers  # noqa: F401
from qap.measure.hostile import moves_requests as _requests  # noqa: F401
from qap.measure.hostile import moves_rings as _rings  # noqa: F401
from qap.measure.hostile.grammar import MOVES
from qap.measure.hostile.name import EpisodeName
from qap.measure.hostile.target import Target, target

FEWEST, MOST = 4, 24
FIRST = "begin"


class Step(NamedTuple):
    """A move, and the seed of all that it draws; so a step is the same without those before."""

    move: str
    seed: int

    def __str__(self) -> str:
        return self.move


@dataclass(frozen=True)
class Walk:
    """The steps of an episode on its target."""

    name: EpisodeName
    target: Target
    steps: tuple[Step, ...]

    def only(self, numbers: tuple[int, ...]) -> tuple[tuple[int, Step], ...]:
        """The steps with these numbers, from 0; all of them if there is no number."""
        return tuple(
            (number, step)
            for number, step in enumerate(self.steps)
            if not numbers or number in numbers
        )


def walk(name: EpisodeName) -> Walk:
    """The walk of an episode."""
    random = name.random()
    aimed = target(name)
    fitting = [
        move
        for move in MOVES.values()
        if move.weight and (not move.only or aimed.device.startswith(move.only))
    ]
    weights = [move.weight for move in fitting]
    drawn = random.choices(fitting, weights, k=random.randint(FEWEST, MOST))
    first = [] if random.random() < 0.1 else [FIRST]
    names = [*first, *(move.name for move in drawn)]
    return Walk(name, aimed, tuple(Step(move, random.getrandbits(32)) for move in names))


def rng(step: Step) -> Random:
    """What a step draws from."""
    return Random(step.seed)
