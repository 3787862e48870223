"""Finding the fewest steps of a failed episode that do the same."""

import time
from dataclasses import dataclass, replace

from qap.fork.build import Build
from qap.measure.hostile.episode import Episodes
from qap.measure.hostile.failure import Failure
from qap.measure.hostile.name import EpisodeName
from qap.measure.hostile.walk import walk

# How often it is tried again before it counts as not failing by itself, and for how long a
# shorter walk is looked for.
TRIES = 3
BUDGET_S = 40.0


@dataclass
class Shrink:
    """Shrinks one failure."""

    build: Build
    failure: Failure
    patience: float

    def run(self) -> Failure:
        """The same failure with fewer steps; itself if it does not fail by itself."""
        name = EpisodeName.parse(self.failure.episode)[-1]
        found = next((found for _ in range(TRIES) if (found := self._fails(name, ()))), None)
        if found is None:
            return self.failure
        deadline = time.monotonic() + BUDGET_S
        steps = tuple(range(len(walk(name).steps)))
        size = max(1, len(steps) // 2)
        while size and time.monotonic() < deadline:
            at = 0
            while at < len(steps) and time.monotonic() < deadline:
                fewer = steps[:at] + steps[at + size :]
                shorter = self._fails(name, fewer) if fewer else None
                if shorter:
                    found, steps = shorter, fewer
                else:
                    at += size
            size //= 2
        return replace(found, steps=steps)

    def _fails(self, name: EpisodeName, steps: tuple[int, ...]) -> Failure | None:
        with Episodes(self.build, self.patience, debug=self._needs_debugger) as alone:
            failure = alone.run(name, steps)
        return failure if failure and failure.signature == self.failure.signature else None

    @property
    def _needs_debugger(self) -> bool:
        return self.failure.signature.startswith(("signal", "hang in"))
