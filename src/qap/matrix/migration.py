"""A driver and its VM migrate to another QEMU, and the driver goes on there."""

from dataclasses import dataclass

from qap.host.errors import QapError
from qap.machine.machine import Machine
from qap.machine.qmp import Qmp
from qap.matrix.observation import CellObservation
from qap.matrix.probe import ProbeDriver
from qap.matrix.setup import Setup
from qap.virtio.driver import Behaviour

MOVED_S = 30.0
COMPLETED = "completed"
ENDS = (COMPLETED, "failed")
EVENTS = [{"capability": "events", "state": True}]


@dataclass
class Migration:
    """A VM that migrates through a file, so that its source can go on afterwards.

    Args:
        driving: the driver, as far as it has come.
        there: the config of its device at the destination.
        proper: a driver that resets the device there and accepts the features that it should.
        waits: the driver has not set DRIVER_OK yet, and does so there.
        seen: gets what is observed.
    """

    driving: ProbeDriver
    there: Setup
    proper: Behaviour
    waits: bool
    seen: CellObservation

    def run(self) -> None:
        """Migrate, test the destination, and end it; the testbed is as before then.

        Raises:
            QapError: the VM can't leave, or a QEMU ended.
            TimeoutError: it doesn't leave or arrive in time.
        """
        testbed = self.driving.testbed
        uri = f"file:{testbed.folder / 'vm'}"
        testbed.machine.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
        testbed.say("migrate", uri=uri)
        testbed.machine.qmp.execute("migrate", uri=uri)
        try:
            with testbed.destination(self.there) as machine:
                if _end(testbed.machine.qmp) != COMPLETED:
                    why = testbed.machine.qmp.execute("query-migrate").get("error-desc", "")
                    raise QapError(f"the VM can't leave: {why}")
                self._arrive(machine, uri)
        finally:
            testbed.follow(testbed.machine)
            testbed.machine.qmp.execute("cont")

    def _arrive(self, machine: Machine, uri: str) -> None:
        testbed, seen = self.driving.testbed, self.seen
        testbed.say("migrate-incoming", uri=uri)
        machine.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
        machine.qmp.execute("migrate-incoming", uri=uri, exit_on_error=False)
        seen.arrived = _end(machine.qmp) == COMPLETED
        if seen.arrived:
            testbed.follow(machine)
            self._drive_on()
        else:
            seen.later_error = testbed.nameless("; ".join(machine.process.tail().splitlines()))

    def _drive_on(self) -> None:
        """Let the driver go on at the destination, and then a proper driver."""
        driving, seen = self.driving, self.seen
        if driving.has_queue:
            if self.waits:
                driving.driver.start()
            seen.later_served = driving.is_served_again()
        fresh = ProbeDriver(
            driving.testbed, self.there, driving.transport, self.proper, driving.confirms
        )
        fresh.driver.negotiate()
        fresh.set_up()
        fresh.driver.start()
        seen.recovered = fresh.is_served_again()


def _end(qmp: Qmp) -> str:
    """How a migration ends."""
    event = qmp.wait_event("MIGRATION", lambda data: data.get("status") in ENDS, MOVED_S)
    status: str = event["status"]
    return status
