"""Plugging and unplugging over and over in one QEMU, and what that leaves behind."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import Any

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine.machine import QemuDied
from qap.machine.resources import Footprint
from qap.matrix.cell import Cell
from qap.matrix.cell_run import CellRun
from qap.matrix.judge import ProblemKind, judge
from qap.matrix.observation import CellObservation
from qap.matrix.setup import NO_ORDER, Setup
from qap.matrix.testbed import Refused, Testbed
from qap.oracle.fence import Outcome
from qap.vhost_user.misbehave import HangUp, Misbehaviour
from qap.vhost_user.protocol import FrontendRequest

IN_QEMU = ("blk", "net", "rng", "scsi", "serial", "balloon", "9p", "crypto")
VHOST_USER = ("blk", "fs", "rng", "net", "vsock", "scsi")
# No power of two, too small, or 0: QEMU has a check of its own for each.
BAD_SIZES: Mapping[str, Mapping[str, int]] = {
    "virtio-blk": {"queue-size": 3},
    "virtio-net": {"rx_queue_size": 3},
    "vhost-user-blk": {"queue-size": 0},
    "vhost-user-fs": {"queue-size": 3},
}
# The message at which a back-end closes its connection while QEMU realizes the device.
LEAVES_AT = {
    "vhost-user-blk": FrontendRequest.GET_CONFIG,
    "vhost-user-fs": FrontendRequest.SET_OWNER,
    "vhost-user-rng": FrontendRequest.GET_FEATURES,
    "vhost-user-scsi": FrontendRequest.GET_PROTOCOL_FEATURES,
    "vhost-user-vsock": FrontendRequest.GET_QUEUE_NUM,
}
# Rotations until QEMU keeps nothing new for a slot: each failure occurs twice.
WARM_UP_ROTATIONS = 2
# Samples at each end whose middle value is what the memory is.
ENDS = 3
# Memory that QEMU may grow by: without a leak, glibc's heap varies by less.
RESIDENT_BOUND = 4 << 20
REPORT_LINES = 400
SOCKET = re.compile(r"\$DIR/\d+\.sock")
SANITIZER = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error: ")


@dataclass(frozen=True)
class SoakStep:
    """A device that is plugged, and driven or refused.

    Attributes:
        spoilt: properties that make QEMU refuse it.
        rules: what its back-end does wrong, so that QEMU refuses it.
    """

    config: Setup
    spoilt: tuple[tuple[str, int], ...] = ()
    rules: tuple[Misbehaviour, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether QEMU has to refuse it."""
        return bool(self.spoilt or self.rules) or self.config.plugging.outcome is Outcome.REFUSED

    @property
    def name(self) -> str:
        why = " ".join(f"{key}={value}" for key, value in self.spoilt) + (
            "back-end leaves" if self.rules else ""
        )
        return f"{self.config.device} ({why or self.config.backend})"


def _config(device: str, backend: str) -> Setup:
    return Setup("q35", "modern", device, backend, "intel-on", NO_ORDER, "on", "hot")


def _backend(device: str) -> str:
    return "ap" if device.startswith("vhost-user") else "in-qemu"


@cache
def rotation() -> tuple[SoakStep, ...]:
    """The steps of a rotation, which is repeated: every third step fails."""
    names = [
        *(f"virtio-{kind}" for kind in IN_QEMU),
        *(f"vhost-user-{kind}" for kind in VHOST_USER),
    ]
    served = [SoakStep(_config(name, _backend(name))) for name in names]
    failing = [
        *(SoakStep(_config(f"vhost-user-{kind}", "no-ap")) for kind in VHOST_USER),
        *(
            SoakStep(_config(name, _backend(name)), spoilt=tuple(sizes.items()))
            for name, sizes in BAD_SIZES.items()
        ),
        *(
            SoakStep(_config(name, "ap"), rules=(HangUp(request=request),))
            for name, request in LEAVES_AT.items()
        ),
    ]
    steps = []
    for number, fails in enumerate(failing):
        steps += [served[(2 * number + offset) % len(served)] for offset in range(2)]
        steps.append(fails)
    return tuple(steps)


@dataclass
class Soak:
    """A QEMU's share of the cycles.

    Args:
        cycles: how many count, after the warm-up.
        progress: called after each with how many are over, none during the warm-up.
        steps: a rotation, repeated until all cycles are done.
        bounded: judge its memory; False for a sanitizer, which keeps freed memory.
    """

    build: Build
    cycles: int
    progress: Callable[[int], None] = lambda _: None
    steps: tuple[SoakStep, ...] = field(default_factory=rotation)
    bounded: bool = True
    samples: list[dict[str, Any]] = field(init=False, default_factory=list)
    problems: Counter[str] = field(init=False, default_factory=Counter)
    done: Counter[str] = field(init=False, default_factory=Counter)
    detail: str = field(init=False, default="")

    def run(self) -> dict[str, Any]:
        """Carry it out; what goes wrong is in the result (docs/json.md)."""
        testbed = Testbed(
            self.build, list(dict.fromkeys(step.config for step in self.steps)), census=False
        )
        try:
            with testbed:
                self._carry_out(testbed)
        except (QapError, TimeoutError, OSError) as exc:
            self._broken(exc)
        self.detail = sanitizer_report(testbed.said) or self.detail
        if sanitizer_report(testbed.said):
            self.problems["a sanitizer reported an error"] += 1
        if self.bounded:
            self._judge_memory()
        return {
            "done": self.done.total(),
            "plugged": self.done["plugged"],
            "refused": self.done["refused"],
            "problems": dict(self.problems),
            "samples": self.samples,
            "detail": self.detail,
        }

    def _carry_out(self, testbed: Testbed) -> None:
        for step in self.steps * WARM_UP_ROTATIONS:
            self._cycle(testbed, step)
            self.progress(0)
        self.done.clear()
        before = Footprint.of(testbed.machine)
        self._sample(0, before)
        for number, step in enumerate(self._forever(), 1):
            if number > self.cycles:
                break
            self.done[self._cycle(testbed, step)] += 1
            self.progress(number)
            if number % len(self.steps) == 0:
                self._sample(number, Footprint.of(testbed.machine))
        after = Footprint.settled(testbed.machine, before)
        self._sample(self.cycles, after)
        self.problems.update(after.beyond(before))

    def _forever(self) -> Iterator[SoakStep]:
        while True:
            yield from self.steps

    def _cycle(self, testbed: Testbed, step: SoakStep) -> str:
        """Plug, drive and unplug it, or see it refused; says which."""
        testbed.misbehaviour, testbed.spoilt = step.rules, dict(step.spoilt)
        cell = Cell(step.config, "accepts")
        seen = CellObservation()
        try:
            testbed.plug(step.config)
        except Refused as refused:
            seen.outcome, seen.error = Outcome.REFUSED, str(refused)
        else:
            seen.outcome = Outcome.WORKS
            if not step.refused:
                self._drive(testbed, cell, seen)
            testbed.unplug(step.config)
        if step.spoilt or step.rules:
            if seen.outcome != Outcome.REFUSED:
                self.problems[f"{step.name}: plugged, but must be refused"] += 1
        else:
            for problem in judge(cell, seen):
                text = SOCKET.sub("$SOCKET", testbed.nameless(problem.text))
                self.problems[f"{step.name}: {text}"] += 1
        return "refused" if seen.outcome == Outcome.REFUSED else "plugged"

    def _drive(self, testbed: Testbed, cell: Cell, seen: CellObservation) -> None:
        try:
            CellRun(testbed, cell).run(seen)
            if any(problem.kind is ProblemKind.UNSERVED for problem in judge(cell, seen)):
                # A busy host is slow, too: wait longer before the device counts as not serving.
                CellRun(testbed, cell, confirms=True).run(seen)
        except (QapError, TimeoutError) as exc:
            if isinstance(exc, QemuDied):
                raise
            seen.outcome, seen.error = "", str(exc)

    def _sample(self, cycle: int, footprint: Footprint) -> None:
        self.samples.append({"cycle": cycle, **footprint.as_dict()})

    def _judge_memory(self) -> None:
        sizes = [sample["resident"] for sample in self.samples]
        if len(sizes) > 2 * ENDS:
            growth = median(sizes[-ENDS:]) - median(sizes[:ENDS])
            if growth > RESIDENT_BOUND:
                self.problems[f"{growth / (1 << 20):.1f} MiB more memory"] += 1

    def _broken(self, exc: Exception) -> None:
        text = str(exc)
        if isinstance(exc, QemuDied):
            text += f" after {self.done.total()} cycles"
        self.problems[text] += 1
        self.detail = getattr(exc, "detail", "")


def trace_leaks(build: Build) -> None:
    """Let a sanitizer say where leaks come from: GLib has no frame pointers."""
    if build.is_sanitized:
        os.environ.setdefault("ASAN_OPTIONS", "fast_unwind_on_malloc=0")


def sanitizer_report(said: str) -> str:
    """The first report of AddressSanitizer, LeakSanitizer or UBSan in a log, or ""."""
    match = SANITIZER.search(said)
    if match is None:
        return ""
    start = said.rfind("\n", 0, match.start()) + 1
    return "\n".join(said[start:].splitlines()[:REPORT_LINES])
