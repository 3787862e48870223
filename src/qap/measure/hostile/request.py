"""What requests of all device types have in common."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple


class Request(NamedTuple):
    """A request: its queue, what the device reads, in pieces, and the sizes of what it writes."""

    queue: int
    out: tuple[bytes, ...] = ()
    room: tuple[int, ...] = ()


Draw = Callable[[Random], Request]


def pick(random: Random, *usual: int, width: int = 32) -> int:
    """Mostly a usual value, or else one at an edge, or any."""
    edges = (0, 1, (1 << width) - 1, 1 << width - 1, (1 << width - 1) - 1)
    kind = random.random()
    if kind < 0.75:
        return random.choice(usual or edges)
    return random.choice(edges) if kind < 0.9 else random.getrandbits(width)
