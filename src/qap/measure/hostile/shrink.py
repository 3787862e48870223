"""Finding the fewest steps of a failed episode that do the same."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from qap.fork.build import Build
from qap.measure.hostile.episode import Episodes
from qap.measure.hostile.failure import Failure
from qap.measure.hostile.name import EpisodeName
from qap.measure.hostile.walk import walk

# How often it is tried again before it counts as not failing by itself, and for how long a
# shorter walk is looked for.
TRIES = 3
BUDGET_S = 40.0


T = TypeVar("T")


@dataclass
class Shrink:
    """Shrinks one failure."""

    build: Build
    failure: Failure
    patience: float
    _deadline: float = field(init=False, default=0.0)
    _found: Failure | None = field(init=False, default=None)

    def run(self) -> Failure:
        """The same failure with fewer episodes before it and fewer steps.

        It is the failure as it was if it does not occur again.
        """
        names = EpisodeName.parse(self.failure.episode)
        if not any(self._fails(names[-1:], ()) for _ in range(TRIES)):
            if len(names) == 1 or not any(self._fails(names, ()) for _ in range(TRIES)):
                return self.failure
            earlier = names[:-1]
        else:
            earlier = []
        self._deadline = time.monotonic() + BUDGET_S
        last = names[-1]
        earlier = self._fewest(earlier, lambda some: self._fails([*some, last], ()))
        numbers = list(range(len(walk(last).steps)))
        self._fewest(numbers, lambda some: bool(some) and self._fails([*earlier, last], some))
        assert self._found is not None
        return self._found

    def _fewest(self, parts: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
        """Parts of which none can be left out, as far as the time allows."""
        left, size = list(parts), max(1, len(parts) // 2)
        while size and left:
            at = 0
            while at < len(left) and time.monotonic() < self._deadline:
                fewer = left[:at] + left[at + size :]
                if fails(fewer):
                    left = fewer
                else:
                    at += size
            size //= 2
        return left

    def _fails(self, names: Sequence[EpisodeName], steps: Sequence[int]) -> bool:
        """Whether the last of these episodes fails in the same way."""
        with Episodes(self.build, self.patience, debug=self._needs_debugger) as episodes:
            for name in names[:-1]:
                if episodes.run(name):
                    return False
            failure = episodes.run(names[-1], tuple(steps)) or episodes.finish()
        if failure is None or failure.signature != self.failure.signature:
            return False
        self._found = failure
        return True

    @property
    def _needs_debugger(self) -> bool:
        return self.failure.signature.startswith(("signal", "hang in"))
