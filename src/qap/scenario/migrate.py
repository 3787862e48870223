"""A guest that migrates to a second QEMU, and uses its device there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qap.host.errors import QapError
from qap.machine.guest.load import TURNS, Load
from qap.machine.qmp import Qmp, QmpRefused
from qap.machine.spec import Spec
from qap.scenario.behind import Behind
from qap.scenario.observation import Observation
from qap.scenario.proof import Proof
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import between_option, chardev_option, scenario_devices

MOVED_S = 120.0
COMPLETED = "completed"
ENDS = (COMPLETED, "failed")
EVENTS = [{"capability": "events", "state": True}]
SOCKET = "migration.sock"
INCOMING = ("-incoming", "defer")


def destination(scenario: Scenario, source: Spec, there: Behind | None) -> Spec:
    """The machine to which the VM migrates: what has been plugged is there from the start.

    Args:
        source: the machine as it started.
        there: the back-end behind the device there.
    """
    socket = there.socket if there else None
    chardevs, devices = list(source.chardevs), list(source.devices)
    if scenario.plug == "cold":
        chardevs = [one for one in chardevs if not one.startswith("socket,id=backend")]
        devices = [
            {**one, "chardev": socket.stem} if socket and "chardev" in one else one
            for one in devices
        ]
    else:
        devices += scenario_devices(scenario, socket)
    extra = [*source.extra, *INCOMING]
    if socket:
        chardevs.append(chardev_option(scenario, socket))
        extra = _between(scenario, extra, socket)
    return replace(source, chardevs=chardevs, devices=devices, extra=extra)


def _between(scenario: Scenario, words: Sequence[str], socket: Path) -> list[str]:
    """These words, with what is between the device and its back-end at this socket."""
    option = between_option(scenario, socket)
    if not option:
        return [*words]
    name, value = option
    here = value.partition(",chardev=")[0]
    left = [*words]
    for at in reversed(range(len(left) - 1)):
        if left[at] == name and left[at + 1].startswith(here):
            del left[at : at + 2]
    return [*option, *left]


@dataclass(frozen=True)
class Migration:
    """Migrate while the guest reads the device, if it can do that all the time.

    Args:
        here, there: the guest's proof of the device in the QEMU that has the VM, and in the one
            that waits for it.
        folder: of the socket between them.
        seen: gets what is observed.
    """

    scenario: Scenario
    here: Proof
    there: Proof
    folder: Path
    seen: Observation

    def run(self) -> None:
        """Carry it out.

        Raises:
            QapError, TimeoutError: the VM is lost, or does not use the device.
        """
        check = self.scenario.check.check
        load = Load.of(self.here.console, check, self.here.name) if check in TURNS else None
        if load:
            load.start()
            load.went_on()
        if error := self._move():
            self.seen.migrated, self.seen.migration_error = False, error
            self._stays(load)
            return
        if load:
            turns = replace(load, console=self.there.console).went_on()
            self.seen.said.append(f"the guest read on while it migrated, {turns} times so far")
        self.seen.said += self.there.run()
        self.seen.migrated = True

    def _move(self) -> str:
        """Migrate; returns why that failed, or ""."""
        source, there = self.here.machine.qmp, self.there.machine.qmp
        uri = f"unix:{self.folder / SOCKET}"
        there.execute("migrate-set-capabilities", capabilities=EVENTS)
        there.execute("migrate-incoming", uri=uri, exit_on_error=False)
        source.execute("migrate-set-capabilities", capabilities=EVENTS)
        try:
            source.execute("migrate", uri=uri)
        except QmpRefused as refused:
            return refused.said
        if _end(source) != COMPLETED:
            why: str = source.execute("query-migrate").get("error-desc", "it failed")
            return why
        if _end(there) != COMPLETED:
            raise QapError("the destination did not take the VM", self.there.machine.process.tail())
        self.seen.said.append("the VM migrated to a second QEMU")
        return ""

    def _stays(self, load: Load | None) -> None:
        """See that the VM runs on where it is, and uses the device."""
        if not self.here.machine.alive:
            raise QapError("the VM can't migrate, and no longer runs")
        if load:
            load.went_on()
        self.seen.said += self.here.run()
        self.seen.said.append("the VM runs on where it is")


def _end(qmp: Qmp) -> str:
    """How a migration ends."""
    event = qmp.wait_event("MIGRATION", lambda data: data.get("status") in ENDS, MOVED_S)
    status: str = event["status"]
    return status
