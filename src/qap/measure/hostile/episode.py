"""Carrying out an episode, and a batch of them in one QEMU."""

import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from qap.fork.build import Build
from qap.host.errors import MissingError, QapError
from qap.hw.s390x_cpu import CpuLost
from qap.machine.machine import QemuDied
from qap.matrix.testbed import Refused
from qap.measure.hostile.arena import ArenaFull
from qap.measure.hostile.bed import Bed, BedSpent
from qap.measure.hostile.driver import HostileDriver
from qap.measure.hostile.failure import (
    LAST_STEPS,
    Failure,
    crash_place,
    hang_place,
    last_lines,
    signature,
)
from qap.measure.hostile.grammar import MOVES
from qap.measure.hostile.judge import Judge, Verdict
from qap.measure.hostile.name import EpisodeName
from qap.measure.hostile.walk import FIRST, Walk, rng, walk
from qap.measure.soak_cycle import sanitizer_report

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
    "--args",
)
# A debugger makes everything slower.
DEBUGGED = 4


DIED_S = 5.0
# How often a driver starts again after bad rings.
AGAIN = 0.5
REPORT_LINES = 24
LATE = "late"


class NoDevice(QapError):
    """The build has no such device."""


@dataclass
class Episodes:
    """Carries out episodes of one target, in one QEMU as long as that lasts.

    Args:
        patience: seconds after which a QEMU that does not answer hangs.
        debug: ask a debugger where a QEMU hangs or crashes.
        wrapper: a command that QEMU is run by.

    Attributes:
        trace: what the driver did in the latest episode.
    """

    build: Build
    patience: float
    debug: bool = True
    wrapper: Sequence[str] = ()
    trace: list[str] = field(init=False, default_factory=list)
    _history: list[tuple[Walk, tuple[int, ...]]] = field(init=False, default_factory=list)
    _bed: Bed | None = field(init=False, default=None)
    _judge: Judge | None = field(init=False, default=None)

    def run(self, name: EpisodeName, steps: tuple[int, ...] = ()) -> Failure | None:
        """Carry out an episode; see `carry_out`."""
        return self.carry_out(walk(name), steps)

    def carry_out(self, walked: Walk, steps: tuple[int, ...] = ()) -> Failure | None:
        """Carry out a walk; returns what went wrong, if anything did.

        Args:
            walked: of the same target as those before it.
            steps: the numbers of the only steps to take; all if empty.
        Raises:
            NoDevice: the build has no such device.
        """
        self.trace = []
        if self._bed is None:
            self._history.clear()
        self._history.append((walked, steps))
        try:
            bed = self._ready(walked)
            self._walk(bed, walked, steps)
            assert self._judge is not None
            self._judge.judge()
        except BedSpent:
            self.end()
        except (NoDevice, MissingError):
            raise
        except Exception as error:  # Whatever it is, the sweep goes on and tells it.
            return self._failed(walked, error, steps)
        return None

    def _ready(self, walked: Walk) -> Bed:
        if self._bed is None:
            bed = Bed(self.build, walked.target, self.patience, self.wrapper)
            try:
                self._bed = bed.__enter__()
            except QemuDied as died:
                if "is not a valid device" in died.output:
                    raise NoDevice(died.said) from None
                raise
            except Refused as refused:
                if "is not a valid device" in str(refused):
                    raise NoDevice(str(refused)) from None
                raise
            self._judge = Judge(bed)
        return self._bed

    def _walk(self, bed: Bed, walked: Walk, steps: tuple[int, ...]) -> None:
        driver = bed.driver()
        self.trace = driver.trace
        for number, step in walked.only(steps):
            driver.say(f"[{number}] {step}")
            self._step(driver, walked, number)

    def _step(self, driver: HostileDriver, walked: Walk, number: int) -> None:
        step = walked.steps[number]
        random = rng(step)
        with suppress(ArenaFull):
            # A device that stopped to serve learns of nothing more.
            if driver.spoilt and random.random() < AGAIN:
                MOVES[FIRST].act(driver, random)
            MOVES[step.move].act(driver, random)
        driver.wire.flush()
        if driver.wire.odd:
            driver.arena.told = False

    def _failed(self, walked: Walk, error: Exception, steps: tuple[int, ...]) -> Failure | None:
        error, place = self._looked_at(error)
        lost = isinstance(error, CpuLost) or (isinstance(error, Verdict) and error.kind == LATE)
        if lost and walked.target.can_lose_its_cpu:
            self.end()
            return None
        said = last_lines(error)
        trace = tuple(self.trace[-LAST_STEPS:])
        self.end()
        if isinstance(error, QemuDied) and error.status == -signal.SIGSEGV and self.debug:
            place = self._crash_place()
        name = EpisodeName.together([earlier.name for earlier, _ in self._history])
        said_so = signature(error, walked.target.device, place)
        output = error.output if isinstance(error, QemuDied) else ""
        return Failure(name, str(walked.target), said_so, said, trace, steps, output)

    def _crash_place(self) -> str:
        """Where QEMU crashes if all that it did is done again under a debugger; "" if nowhere."""
        again = Episodes(self.build, DEBUGGED * self.patience, debug=False, wrapper=DEBUGGER)
        with again:
            for walked, steps in self._history:
                if failure := again.carry_out(walked, steps):
                    return crash_place(failure.output)
        return ""

    def _looked_at(self, error: Exception) -> tuple[Exception, str]:
        """What really happened where something was lost, or late; and where QEMU hangs."""
        if self._bed is None or isinstance(error, QemuDied):
            return error, ""
        machine = self._bed.testbed.machine
        if isinstance(error, CpuLost):
            with suppress(TimeoutError):
                return machine.died(DIED_S), ""
        if isinstance(error, TimeoutError):
            machine.qmp.timeout = self.patience / 2
            try:
                machine.qmp.execute("query-status")
            except TimeoutError:
                place = hang_place(machine.process.pid) if self.debug else ""
                machine.process.kill()
                return error, place
            except QemuDied as died:
                return died, ""
            return Verdict(LATE, str(error)), ""
        return error, ""

    def finish(self) -> Failure | None:
        """End the QEMU; returns what a sanitizer said only then, such as of leaks.

        The failure is that of all its episodes together.
        """
        bed, history = self._bed, list(self._history)
        self.end()
        report = sanitizer_report(bed.testbed.said) if bed and history else ""
        if not report:
            return None
        walked = history[-1][0]
        name = EpisodeName.together([earlier.name for earlier, _ in history])
        said = "\n".join(report.splitlines()[:REPORT_LINES])
        error = Verdict("sanitizer", report)
        group = signature(error, walked.target.device)
        return Failure(name, str(walked.target), group, said, (), history[-1][1], report)

    def end(self) -> None:
        """End the QEMU; the next episode gets a new one."""
        bed, self._bed = self._bed, None
        if bed:
            with suppress(QapError, TimeoutError, OSError):
                bed.__exit__()

    def __enter__(self) -> "Episodes":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
