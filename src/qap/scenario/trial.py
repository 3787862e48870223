"""A trial: one scenario on one build, carried out and observed."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine.catalog import device_types
from qap.machine.guest import balloon, busy, io_checks
from qap.machine.machine import Machine, QemuDied
from qap.machine.qmp import QmpRefused
from qap.machine.recording import Recording
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.scenario import confidential, reproducer
from qap.scenario.behind import Behind, behind
from qap.scenario.proof import Proof
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import DUT, scenario_devices, scenario_spec


@dataclass
class Observation:
    """What a trial saw.

    Attributes:
        outcome: works, refused, not served, or None where it was none of them (see `error`).
        error: what QEMU said of a device that is refused or not served, or what went wrong.
        features: the feature bits that the guest's driver negotiated.
        said: what was checked, in words.
        exit_status: QEMU's, where it ended by itself.
        seconds: how long it took.
        commands: how to repeat it by hand.
    """

    outcome: Outcome | None = None
    error: str = ""
    features: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    exit_status: int | None = None
    seconds: float = 0.0
    commands: list[str] = field(default_factory=list)


@dataclass
class Trial:
    """A scenario under test on a build.

    Args:
        scenario: what to do.
        build: which QEMU.
        recording: gathers what is said, if somebody wants it.
    """

    scenario: Scenario
    build: Build
    recording: Recording | None = None
    seen: Observation = field(default_factory=Observation)
    _generation: int = 0
    _backend_words: str = ""

    def run(self) -> Observation:
        """Carry it out. What QEMU refuses is an outcome; anything else that goes wrong
        is an observation without one."""
        start = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="qap-") as folder:
                self._carry_out(Path(folder))
        except (QapError, OSError, subprocess.SubprocessError) as exc:
            parts = (str(exc), getattr(exc, "detail", ""), self._backend_words)
            self.seen.error = "\n".join(part for part in parts if part)
            self.seen.outcome = None
        self.seen.seconds = time.monotonic() - start
        return self.seen

    @contextmanager
    def _behind(self, host_data: io_checks.HostData) -> Iterator[Behind | None]:
        if self.scenario.kind.vhost_user is None:
            yield None
            return
        self._generation += 1
        name = f"backend{self._generation}"
        with behind(self.scenario, self.build, host_data, name) as one:
            try:
                yield one
            finally:
                self._backend_words = one.words() or self._backend_words

    def _carry_out(self, folder: Path) -> None:
        host_data = io_checks.HostData(folder)
        host_data.prepare()
        binary = self.build.path(f"qemu-system-{self.scenario.settings.qemu}")
        with ExitStack() as owned:
            cold = self.scenario.plug == "cold"
            one = owned.enter_context(self._behind(host_data)) if cold else None
            socket = one.socket if one else None
            spec = scenario_spec(self.scenario, socket, host_data, is_base=self.build.is_base)
            log = folder / "qemu.log"
            running = self.recording.spec(spec, folder) if self.recording else spec
            machine = Machine(binary, running, log=log)
            if self.recording:
                owned.callback(self.recording.end, machine, log)
            self.seen.commands = self._by_hand(folder, spec, one)
            try:
                owned.enter_context(machine)
                if self.recording:
                    self.recording.begin(machine)
                machine.boot()
            except QemuDied as died:
                self._died_at_start(died)
                return
            if self.recording:
                owned.callback(self.recording.ask_kernel, machine)
            if cold:
                self._prove(machine, host_data, one)
                return
            if self.scenario.busy:
                busy.start(machine.console)
            self._hot(machine, folder, host_data)
            if self.scenario.plug == "replug" and self.seen.outcome == Outcome.WORKS:
                self._hot(machine, folder, host_data)
            if self.scenario.busy:
                self.seen.said += busy.went_on(machine.console)

    def _by_hand(self, folder: Path, spec: Spec, one: Behind | None) -> list[str]:
        binary = self.build.path(f"qemu-system-{self.scenario.settings.qemu}")
        return reproducer.commands(self.scenario, binary, spec, one, folder)

    def _died_at_start(self, died: QemuDied) -> None:
        self.seen.exit_status = died.status
        if self.scenario.plug == "cold" and died.fenced:
            self.seen.outcome = Outcome.REFUSED
            self.seen.error = died.said
            self.seen.said.append("QEMU exited with status 1")
            return
        raise died

    def _hot(self, machine: Machine, folder: Path, host_data: io_checks.HostData) -> None:
        """Plug, prove and (for replug) unplug; or see it refused and the VM unharmed."""
        with self._behind(host_data) as one:
            self.seen.commands = self._by_hand(folder, machine.spec, one)
            if one is not None:
                machine.add_socket(one.socket.stem, one.socket)
            device, *inside = scenario_devices(self.scenario, one.socket if one else None)
            try:
                machine.plug(device)
            except QmpRefused as refused:
                if REFUSAL_PHRASE not in refused.said:
                    raise
                self.seen.outcome, self.seen.error = Outcome.REFUSED, refused.said
                self._unharmed(machine, host_data)
                return
            for more in inside:
                machine.plug(more)
            self._prove(machine, host_data, one)
            if self.scenario.plug == "replug":
                machine.unplug(DUT)
                io_checks.wait_gone(machine.console, self.scenario.kind.device_id)
                self.seen.said.append("unplugged")
                if one is not None:
                    machine.qmp.execute("chardev-remove", id=one.socket.stem)

    def _prove(self, machine: Machine, host_data: io_checks.HostData, one: Behind | None) -> None:
        try:
            name = io_checks.find(machine.console, self.scenario.kind.device_id)
        except io_checks.DeviceGivenUp as given_up:
            self._unserved(machine, str(given_up))
        else:
            self.seen.features = io_checks.negotiated(machine.console, name)
            host = one.host if one else None
            proof = Proof(self.scenario, machine, host_data, name, host)
            self.seen.said += proof.run()
            self.seen.outcome = Outcome.WORKS
        if self.scenario.confidential and self.build.is_base:
            self.seen.said.append(confidential.UNPROTECTED)
        elif self.scenario.confidential:
            self.seen.said += confidential.prove(machine, self.scenario.confidential)

    def _unserved(self, machine: Machine, said: str) -> None:
        """The driver gave the device up: what the guest, its user and QEMU say."""
        self.seen.outcome = Outcome.UNSERVED
        self.seen.said.append(f"kernel: {said}")
        if self.scenario.kind.check == "balloon":
            self.seen.said.append(balloon.ask(machine))
        bit = FeatureBit.ACCESS_PLATFORM.name
        told = machine.process.tail().splitlines()
        self.seen.error = "\n".join(line for line in told if bit in line)

    def _unharmed(self, machine: Machine, host_data: io_checks.HostData) -> None:
        """Check after a refusal that the VM runs and that the slot takes an in-QEMU device."""
        if not machine.alive:
            raise QapError("device_add was refused, but the VM no longer runs")
        kind = device_types()["virtio-rng"]
        driver = kind.driver(self.scenario.transport)
        free = {"driver": driver, "id": "next", **self.scenario.place}
        machine.plug({**free, **self.scenario.modern, "iommu_platform": True})
        name = io_checks.find(machine.console, kind.device_id)
        io_checks.random(machine.console, host_data, name)
        self.seen.said.append(f"the VM runs on, and {driver} works in the same slot")
