"""What a guest does with a device to show that it works, by the checks of configs/devices.toml."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.machine.catalog import Check
from qap.machine.guest import (
    balloon,
    cipher,
    device_memory,
    display,
    input_events,
    io_checks,
    sound,
    traffic,
)
from qap.machine.guest.console import Console
from qap.machine.machine import Machine
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import DUT
from qap.vhost_user.chain_service import ChainService
from qap.vhost_user.input import Keyboard
from qap.vhost_user.sound import Loudspeaker
from qap.vhost_user.vsock import VsockHost

NINEP = "-t 9p -o trans=virtio,version=9p2000.L share"
# Of the extended capability for an address translation service (PCI Express 5.0, 10.5.1).
ATS_CAPABILITY, ATS_ENABLED, EXTENDED = 0x000F, 1 << 15, 0x100


@dataclass(frozen=True)
class Proof:
    """A device that a guest's driver has taken.

    Args:
        name: of it under /sys/bus/virtio/devices.
        host: what serves the device, if that is in Python.
    """

    scenario: Scenario
    machine: Machine
    host_data: io_checks.HostData
    name: str
    host: ChainService | None = None

    @property
    def console(self) -> Console:
        return self.machine.console

    def run(self) -> list[str]:
        """Do what the check says; returns what was seen, in words.

        Raises:
            QapError, TimeoutError: the device does not do what it should.
        """
        check = self.scenario.check.check
        said = CHECKS[check](self)
        return [*said, *self._queues(), *self._ats()]

    def traffic(self) -> list[str]:
        """Bytes each way over a network, a port or a socket device."""
        check = self.scenario.check.check
        if check == "network":
            interface = f"/sys/bus/virtio/devices/{self.name}/net"
            name = self.console.check(f'await "ls {interface}" && ls {interface}')
            traffic.over_network(self.console, name)
            return ["guest and host sent each other 1 MiB over the network"]
        if check == "port":
            traffic.over_serial(self.console, self.host_data.folder / "port.sock")
            return ["guest and host sent each other 64 KiB over the port"]
        assert isinstance(self.host, VsockHost)
        traffic.over_vsock(self.console, self.host)
        return ["guest and host sent each other 1 MiB over a stream of vsock"]

    def echo(self) -> list[str]:
        """Requests that a host behind a network card answers."""
        interface = f"/sys/bus/virtio/devices/{self.name}/net"
        name = self.console.check(f'await "ls {interface}" && ls {interface}')
        traffic.echoed(self.console, name)
        return ["guest sent the host 64 KiB over the network, and got them back"]

    def event(self) -> list[str]:
        """An input event, which QEMU sends, or the device's back-end."""
        kind, order = self.scenario.check.check, self.scenario.machine_type.order
        sender: input_events.Sender = input_events.Qemu(self.machine.qmp)
        if isinstance(self.host, Keyboard):
            sender = self.host
        return input_events.receive(self.console, sender, self.name, kind, order)

    def sound(self) -> list[str]:
        """Sound, which a back-end in Python hears."""
        ear = self.host if isinstance(self.host, Loudspeaker) else None
        return sound.play(self.console, self.name, ear)

    def _queues(self) -> list[str]:
        """How many request queues the guest uses, where a number was asked for."""
        wanted = self.scenario.queues
        if not wanted:
            return []
        disk = f"disk=$({io_checks.block_nodes(self.name)})"
        got = int(self.console.check(f"{disk} && ls /sys/block/$disk/mq | wc -l"))
        if got != wanted:
            raise QapError(f"the guest uses {got} queues, not {wanted}")
        return [f"guest uses {got} queues"]

    def _ats(self) -> list[str]:
        """Whether the guest's kernel has turned on the address translation service."""
        if not self.scenario.ats:
            return []
        device = f"/sys/bus/virtio/devices/{self.name}"
        words = self.console.check(
            f"hexdump -v -e '1/4 \"%08x \"' $(dirname $(readlink -f {device}))/config"
        ).split()
        values = [int(word, 16) for word in words]
        at = EXTENDED
        while 0 < at < 4 * len(values):
            head = values[at // 4]
            if head & 0xFFFF == ATS_CAPABILITY:
                on = (values[at // 4 + 1] >> 16) & ATS_ENABLED
                return [f"the guest's kernel has turned ATS {'on' if on else 'off'}"]
            at = head >> 20
        raise QapError("the device has no ATS capability in the guest")


CHECKS: Mapping[Check, Callable[[Proof], list[str]]] = {
    "files": lambda one: io_checks.files(one.console, one.host_data, one.name),
    "9p-files": lambda one: io_checks.files(one.console, one.host_data, one.name, NINEP),
    "disk": lambda one: io_checks.disk(one.console, one.host_data, one.name),
    "random": lambda one: io_checks.random(one.console, one.host_data, one.name),
    "balloon": lambda one: balloon.inflate(one.machine),
    "network": Proof.traffic,
    "echo": Proof.echo,
    "port": Proof.traffic,
    "stream": Proof.traffic,
    "key": Proof.event,
    "motion": Proof.event,
    "position": Proof.event,
    "touch": Proof.event,
    "display": lambda one: display.draw(one.console, one.machine.qmp, one.host_data.folder),
    "sound": Proof.sound,
    "cipher": lambda one: cipher.decipher(one.console, one.scenario.settings.architecture),
    "memory": lambda one: device_memory.grow(one.console, one.machine.qmp, DUT),
    "store": lambda one: device_memory.store(one.console, one.host_data.folder / "pmem.img"),
}
