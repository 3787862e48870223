"""A trial: one scenario on one build, carried out and observed."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine.catalog import device_types
from qap.machine.chardev import COMMANDS
from qap.machine.guest import balloon, io_checks
from qap.machine.guest.load import Load
from qap.machine.machine import Machine, QemuDied
from qap.machine.qmp import QmpRefused
from qap.machine.recording import Recording
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.scenario import confidential, reproducer
from qap.scenario.behind import ENDED_S, Replaceable, behind
from qap.scenario.kill import Kill
from qap.scenario.migrate import Migration, destination
from qap.scenario.observation import Observation
from qap.scenario.proof import Proof
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import BETWEEN, DUT, scenario_devices, scenario_spec


@dataclass
class Trial:
    """A scenario under test on a build.

    Args:
        scenario: what to do.
        build: which QEMU.
        recording: gathers what is said, if somebody wants it.
        elsewhere: the QEMU that the VM migrates to, if it is another build.
    """

    scenario: Scenario
    build: Build
    recording: Recording | None = None
    elsewhere: Build | None = None
    seen: Observation = field(default_factory=Observation)
    _generation: int = 0
    _backend_words: str = ""
    _spec: Spec = field(init=False)

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
    def _behind(self, host_data: io_checks.HostData) -> Iterator[Replaceable | None]:
        if self.scenario.kind.vhost_user is None:
            yield None
            return
        self._generation += 1
        name = f"backend{self._generation}"
        served = Replaceable(lambda: behind(self.scenario, self.build, host_data, name))
        with served:
            try:
                yield served
            finally:
                self._backend_words = served.now.words() or self._backend_words

    def _carry_out(self, folder: Path) -> None:
        host_data = io_checks.HostData(folder)
        host_data.prepare()
        with ExitStack() as owned:
            cold = self.scenario.plug == "cold"
            served = owned.enter_context(self._behind(host_data)) if cold else None
            socket = served.now.socket if served else None
            spec = scenario_spec(self.scenario, socket, host_data, is_base=self.build.is_base)
            self._spec = spec
            log = folder / "qemu.log"
            running = self.recording.spec(spec, folder) if self.recording else spec
            machine = Machine(self._binary, running, log=log)
            if self.recording:
                owned.callback(self.recording.end, machine, log)
            self.seen.commands = self._by_hand(folder, spec, served)
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
                self._prove(machine, host_data, served)
                return
            busy = Load.on_any_disk(machine.console) if self.scenario.busy else None
            if busy:
                busy.start()
            self._hot(machine, folder, host_data)
            if self.scenario.plug == "replug" and self.seen.outcome == Outcome.WORKS:
                self._hot(machine, folder, host_data)
            if busy:
                turns = busy.went_on()
                self.seen.said.append(f"the guest read a disk meanwhile, {turns} times and on")

    @property
    def _binary(self) -> Path:
        return self._program(self.build)

    def _program(self, build: Build) -> Path:
        return build.path(f"qemu-system-{self.scenario.settings.qemu}")

    def _by_hand(self, folder: Path, spec: Spec, served: Replaceable | None) -> list[str]:
        one = served.now if served else None
        return reproducer.commands(self.scenario, self._binary, spec, one, folder)

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
        with self._behind(host_data) as served:
            one = served.now if served else None
            self.seen.commands = self._by_hand(folder, self._spec, served)
            if one is not None:
                again = self.scenario.reconnects
                machine.add_socket(one.socket.stem, one.socket, reconnects=again)
                self._between(machine, one.socket)
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
            self._prove(machine, host_data, served)
            if self.scenario.plug == "replug":
                machine.unplug(DUT)
                io_checks.wait_gone(machine.console, self.scenario.kind.device_id)
                self.seen.said.append("unplugged")
                if one is not None:
                    self._chardev_removed(machine, one.socket)

    def _between(self, machine: Machine, socket: Path) -> None:
        """Add what is between the chardev and the device, if anything is."""
        if between := self.scenario.between:
            said = COMMANDS[between.option]
            arguments = {said.type: between.type, "id": BETWEEN, "chardev": socket.stem}
            machine.qmp.execute(said.add, **arguments)

    def _chardev_removed(self, machine: Machine, socket: Path) -> None:
        between = self.scenario.between
        said = COMMANDS[between.option] if between else None
        if said:
            machine.qmp.execute(said.remove, id=BETWEEN)
        if not (said and said.takes_chardev):
            machine.qmp.execute("chardev-remove", id=socket.stem)

    def _prove(
        self, machine: Machine, host_data: io_checks.HostData, served: Replaceable | None
    ) -> None:
        try:
            name = io_checks.find(machine.console, self.scenario.kind.device_id)
        except io_checks.DeviceGivenUp as given_up:
            self._unserved(machine, str(given_up))
        else:
            self.seen.features = io_checks.negotiated(machine.console, name)
            self.seen.said += self._proof(machine, host_data, name, served).run()
            self.seen.outcome = Outcome.WORKS
            if self.scenario.kill_backend and served:
                proof = partial(self._proof, machine, host_data, served=served)
                Kill(self.scenario, machine, served, proof, self.seen).run(name)
            elif self.scenario.migrate:
                self._migrate(machine, host_data, name, served)
        if self.scenario.confidential and self.build.is_base:
            self.seen.said.append(confidential.UNPROTECTED)
        elif self.scenario.confidential:
            self.seen.said += confidential.prove(machine, self.scenario.confidential)

    def _proof(
        self,
        machine: Machine,
        host_data: io_checks.HostData,
        name: str,
        served: Replaceable | None,
    ) -> Proof:
        host = served.now.host if served else None
        return Proof(self.scenario, machine, host_data, name, host)

    def _migrate(
        self,
        source: Machine,
        host_data: io_checks.HostData,
        name: str,
        before: Replaceable | None,
    ) -> None:
        """Start a second QEMU with a back-end of its own, and migrate to it."""
        folder = host_data.folder / "destination"
        folder.mkdir()
        with ExitStack() as owned:
            served = owned.enter_context(self._behind(host_data))
            one = served.now if served else None
            spec = destination(self.scenario, self._spec, one)
            binary = self._program(self.elsewhere or self.build)
            moving = reproducer.migration(binary, spec, one, host_data.folder)
            self.seen.commands += moving
            log = folder / "qemu.log"
            running = self.recording.spec(spec, folder) if self.recording else spec
            there = Machine(binary, running, log=log)
            if self.recording:
                owned.callback(self.recording.end, there, log)
            owned.enter_context(there)
            if self.recording:
                self.recording.begin(there)
                owned.callback(self.recording.ask_kernel, there)
            at_source = self._proof(source, host_data, name, before)
            proofs = (at_source, self._proof(there, host_data, name, served))
            Migration(self.scenario, *proofs, folder, self.seen).run()
            if self.seen.migrated:
                source.qmp.execute("quit")
                source.process.wait(ENDED_S)

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
