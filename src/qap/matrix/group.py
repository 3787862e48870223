"""A group of cells that share a QEMU, carried out one after the other."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine.machine import OUTPUT_LINES, QemuDied
from qap.machine.recording import Recording
from qap.matrix.cell import Cell
from qap.matrix.cell_run import CellRun
from qap.matrix.judge import ProblemKind, judge
from qap.matrix.lab import CellLab
from qap.matrix.observation import CellObservation
from qap.matrix.result import CellResult
from qap.matrix.setup import Setup
from qap.matrix.testbed import Refused, Testbed
from qap.oracle.fence import Outcome

# At most so many configs share a QEMU, so that a failure affects few others.
MOST_CONFIGS = 24
DEBUGGER = (
    "gdb",
    "-batch",
    "-nx",
    "-ex",
    "handle SIGUSR1 SIGPIPE nostop noprint pass",
    "-ex",
    "run",
    "-ex",
    "bt 24",
    "-ex",
    "thread apply all bt 24",
    "--args",
)
Report = Callable[[CellResult], None]


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by the QEMU that they share; each cold-plugged config has a QEMU of its own."""
    shared: dict[Any, list[list[Cell]]] = {}
    for config, members in groupby(cells, lambda cell: cell.config):
        key = (
            config
            if config.plug == "cold"
            else (
                config.machine,
                config.machine_type,
                config.viommu,
                config.interface_row.args,
                config.destination is not None,
                config.in_lab,
                tuple(config.tells.items()),
            )
        )
        bins = shared.setdefault(key, [[]])
        if len({cell.config for cell in bins[-1]}) >= MOST_CONFIGS:
            bins.append([])
        bins[-1].extend(members)
    return [group for bins in shared.values() for group in bins]


@dataclass
class Group:
    """Carries out cells that `groups` put together.

    Args:
        report: gets each result as soon as it is there.
        debug: if QEMU crashed in a cell, rerun that cell under a debugger.
        lab: for cells that need the kernel lab; they are skipped if None.
        recording: gathers what is said.
    """

    build: Build
    cells: Sequence[Cell]
    report: Report
    debug: bool = True
    lab: CellLab | None = None
    recording: Recording | None = None
    _testbed: Testbed | None = None
    _crashes: dict[str, Cell] = field(default_factory=dict)
    _owned: ExitStack = field(default_factory=ExitStack)

    def run(self) -> None:
        """Carry out every cell. A failure is in that cell's result, and the next one still runs."""
        with self._owned:
            for config, members in groupby(self.cells, lambda cell: cell.config):
                if self._skips(config):
                    for cell in members:
                        self.report(self._result(cell, CellObservation()))
                else:
                    self._config(config, list(members))

    def _skips(self, config: Setup) -> bool:
        """Whether it is not carried out."""
        return bool(config.skip) and not (self.lab and config.in_lab)

    def _config(self, config: Setup, cells: Sequence[Cell]) -> None:
        left = list(cells)
        while left:
            before = len(left)
            for result in self._attempt(config, tuple(left)):
                left.pop(0)
                self.report(result)
            if len(left) == before:
                raise QapError(f"{left[0].name}: no result")

    def _attempt(self, config: Setup, cells: Sequence[Cell]) -> Iterator[CellResult]:
        """Results of cells until QEMU has to be started anew."""
        start = time.monotonic()
        observation = CellObservation()
        fresh = self._testbed is None
        try:
            testbed = self._ready()
            testbed.plug(config)
        except (Refused, QemuDied) as refused:
            first = self._refused(cells[0], refused, observation, start, fresh)
            if isinstance(refused, QemuDied) and (failed := self._end()):
                observation.outcome, observation.error = "", f"{observation.error}; {failed}"
            yield first
            for cell in cells[1:]:
                yield self._result(
                    cell, replace(observation, leftovers=[]), first.qemu, first.detail
                )
            return
        except (QapError, TimeoutError, OSError) as exc:
            yield self._broken(cells[0], exc, observation, start)
            return
        for cell in cells:
            observation = CellObservation(outcome=Outcome.WORKS)
            final = cell.driver_row.unplugs or config.later_row.leaves
            try:
                self._drive(testbed, cell, observation)
                if final or cell is cells[-1]:
                    testbed.unplug(config)
                if final:
                    observation.leftovers = testbed.leftovers()
            except (QapError, TimeoutError, OSError) as exc:
                yield self._broken(cell, exc, observation, start)
                return
            now = time.monotonic()
            lines = self._lines()
            if config.plug == "cold" and (final or cell is cells[-1]) and (failed := self._end()):
                observation.outcome, observation.error = "", str(failed)
            yield self._result(cell, observation, lines, "", now - start, fresh)
            start, fresh = now, False
            if final:
                break

    def _drive(self, testbed: Testbed, cell: Cell, observation: CellObservation) -> None:
        CellRun(testbed, cell).run(observation)
        if any(
            problem.kind in (ProblemKind.UNSERVED, ProblemKind.LOST)
            for problem in judge(cell, observation)
        ):
            # A busy host is slow, too: wait longer before the device counts as not serving.
            CellRun(testbed, cell, confirms=True).run(observation)

    def _refused(
        self,
        cell: Cell,
        refused: Refused | QemuDied,
        observation: CellObservation,
        start: float,
        fresh: bool,
    ) -> CellResult:
        if isinstance(refused, QemuDied) and (refused.status < 0 or cell.config.plug == "hot"):
            return self._broken(cell, refused, observation, start)
        observation.outcome = Outcome.REFUSED
        if isinstance(refused, QemuDied):
            observation.exit_status = refused.status
            observation.error = refused.said
        else:
            observation.error = str(refused)
            assert self._testbed is not None
            observation.leftovers = self._testbed.leftovers()
        return self._result(cell, observation, self._lines(), "", time.monotonic() - start, fresh)

    def _result(
        self,
        cell: Cell,
        observation: CellObservation,
        lines: Sequence[str] = (),
        detail: str = "",
        seconds: float = 0.0,
        fresh: bool = False,
    ) -> CellResult:
        is_base, in_lab = self.build.is_base, self.lab is not None
        return CellResult(cell, observation, lines, detail, seconds, fresh, is_base, in_lab)

    def _broken(
        self, cell: Cell, exc: Exception, observation: CellObservation, start: float
    ) -> CellResult:
        """The result of a cell that could not be carried out; its QEMU is ended."""
        lines = self._lines()
        observation.outcome = ""
        observation.error = str(exc)
        if isinstance(exc, QemuDied):
            observation.exit_status = exc.status
            observation.error += ": " + (exc.said.splitlines() or ["it said nothing"])[-1]
        detail = getattr(exc, "detail", "")
        if self._testbed:
            observation.error = self._testbed.nameless(observation.error)
        if failed := self._end():
            observation.error += f"; {failed}"
        if self.debug and not self.lab and isinstance(exc, QemuDied) and exc.status < 0:
            detail = f"{detail}\n{self._traced(cell, exc)}"
        return self._result(cell, observation, lines, detail, time.monotonic() - start, True)

    def _traced(self, cell: Cell, exc: QemuDied) -> str:
        """Where QEMU crashed; for a failed assertion only once, as its message has the place."""
        words = exc.said.splitlines()[-1:] if exc.status == -signal.SIGABRT else []
        for word in words:
            first = self._crashes.setdefault(word, cell)
            if first is not cell:
                return f"the same as in {first.name}, where its backtrace is"
        return self._backtrace(cell)

    def _backtrace(self, cell: Cell) -> str:
        """What a debugger says when QEMU crashes in this cell again."""
        again = Group(self.build, [cell], lambda result: None, debug=False)
        again._testbed = Testbed(self.build, [cell.config], wrapper=DEBUGGER)
        try:
            with again._testbed as testbed:
                try:
                    testbed.plug(cell.config)
                    CellRun(testbed, cell).run(CellObservation())
                    testbed.unplug(cell.config)
                except (QapError, TimeoutError, OSError):
                    return testbed.machine.process.tail(OUTPUT_LINES)
        except QemuDied as died:
            return died.output
        except QapError as exc:
            return str(exc)
        return "alone in a QEMU it did not crash again"

    def _ready(self) -> Testbed:
        if self._testbed is None:
            configs = list(dict.fromkeys(cell.config for cell in self.cells))
            wanted = [config for config in configs if not self._skips(config)]
            self._testbed = Testbed(self.build, wanted, lab=self.lab, recording=self.recording)
            self._owned.enter_context(self._testbed)
        return self._testbed

    def _end(self) -> QapError | None:
        """End QEMU and the back-ends; returns why one of them failed."""
        self._testbed = None
        try:
            self._owned.close()
        except QapError as failed:
            return failed
        return None

    def _lines(self) -> list[str]:
        return list(self._testbed.lines) if self._testbed else []
