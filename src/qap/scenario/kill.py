"""A back-end that is killed while a guest has its device, and started again."""

from collections.abc import Callable
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.machine import chardev
from qap.machine.guest import io_checks
from qap.machine.guest.load import TURNS, Load
from qap.machine.machine import Machine
from qap.scenario.behind import Replaceable
from qap.scenario.observation import Observation
from qap.scenario.proof import Proof
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import DUT, scenario_devices

# A guest that lets a device go does so in some 6 s: Linux blinks a slot's light for 5 s.
UNPLUGGED_S = 20.0


@dataclass(frozen=True)
class Kill:
    """Kill it, see what becomes of the guest's I/O, start it again, and see the device work.

    Args:
        served: the back-end.
        prove: makes the guest's proof of a device, by its name in the guest.
        seen: gets what is observed.
    """

    scenario: Scenario
    machine: Machine
    served: Replaceable
    prove: Callable[[str], Proof]
    seen: Observation

    def run(self, name: str) -> None:
        """Carry it out.

        Args:
            name: the device's under /sys/bus/virtio/devices.
        Raises:
            QapError, TimeoutError: the VM does not live on, or the device does not come back.
        """
        vhost_user, check = self.scenario.kind.vhost_user, self.scenario.check.check
        assert vhost_user is not None
        busy = self.scenario.kill_backend == "busy"
        load = Load.of(self.machine.console, check, name) if check in TURNS else None
        if busy and load:
            load.start()
            load.went_on()
        socket = self.served.now.socket
        self.served.kill()
        chardev.wait_lost(self.machine.qmp, socket.stem)
        if not self.machine.alive:
            raise QapError("its back-end was killed, and the VM no longer runs")
        self._say(f"its back-end was killed while the guest {'read' if busy else 'was idle'}")
        if load and not busy and vhost_user.reconnects:
            load.start()
        if load and (busy or vhost_user.reconnects):
            self._watch(load)
        if vhost_user.reconnects:
            self._return(name, load)
        elif self.scenario.plug == "hot":
            self._replace()

    def _say(self, line: str) -> None:
        self.seen.said.append(line)

    def _watch(self, load: Load) -> None:
        state = load.state()
        self.seen.io = state
        said = f": {load.said()}" if state == "fails" else ""
        self._say(f"without it, the guest's read {state}{said}")

    def _return(self, name: str, load: Load | None) -> None:
        self.served.again()
        chardev.wait_connected(self.machine.qmp, self.served.now.socket.stem)
        if load:
            load.went_on()
            self._say("it was started again: what waited ended well")
        self.seen.said += self.prove(name).run()
        self.seen.again = True

    def _replace(self) -> None:
        """Unplug the device, and plug one with another back-end."""
        machine, kind = self.machine, self.scenario.kind
        try:
            machine.unplug(DUT, UNPLUGGED_S)
            io_checks.wait_gone(machine.console, kind.device_id, UNPLUGGED_S)
        except TimeoutError:
            self.seen.again = False
            self._say(f"the guest does not let the device go within {UNPLUGGED_S:.0f} s")
            return
        chardev_id = self.served.now.socket.stem
        machine.qmp.execute("chardev-remove", id=chardev_id)
        self.served.again()
        machine.add_socket(chardev_id, self.served.now.socket)
        for device in scenario_devices(self.scenario, self.served.now.socket):
            machine.plug(device)
        again = io_checks.find(machine.console, kind.device_id)
        self._say("it was unplugged, and one with another back-end plugged")
        self.seen.said += self.prove(again).run()
        self.seen.again = True
