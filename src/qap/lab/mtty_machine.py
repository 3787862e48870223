"""A QEMU in L1 with serial ports of `qap.lab.mtty`, through a MigrationLayer."""

from functools import cached_property
from pathlib import Path

from qap.host.wait import poll_until
from qap.hw.acpi_hotplug import BASES, AcpiHotplug
from qap.hw.pci import Bdf, Function, Windows
from qap.hw.pci_bus import PciBus
from qap.lab.l2 import L2
from qap.lab.migration_layer import MigrationLayer
from qap.lab.mtty import Mtty
from qap.machine.spec import Spec

MACHINE = "pc"
# All of it is read in a migration, and a device in pre-copy after each 50 ms of that.
RAM_MIB, MUCH_RAM_MIB = 8, 256
# The first slot of the bus for ports; the next ones follow it.
SLOT = 5
GONE_S = 20.0
# An emulated machine looks through the RAM of another one, on a host that may be busy.
MOVED_S = 120.0
ENDS = ("completed", "failed", "cancelled")
EVENTS = [{"capability": "events", "state": True}]
# A migration that nobody takes: all of the source's part happens.
NOWHERE = "exec:cat >/dev/null"
# 16550: the scratch register, which only keeps what is written.
SCRATCH = 7
MIGRATING = {"type": "migration"}


class MttyMachine(L2):
    """It. Use as a context manager.

    Args:
        layer: knows the ports' rules, and writes down what QEMU asks of them.
        extra: more words of the command line.
        memory: its RAM in MiB.
    """

    def __init__(self, layer: MigrationLayer, *extra: str, memory: int = RAM_MIB) -> None:
        l1 = layer.l1
        trace = ("-trace", "vfio_migration_*", "-trace", "vfio_save_block*")
        spec = Spec(MACHINE, accel="qtest", memory=memory, qtest=True, extra=(*trace, *extra))
        binary = l1.build.path("qemu-system-x86_64")
        super().__init__(binary, spec, wrapper=layer.wrapper, l1=l1)

    def refuses(self, port: Mtty, slot: int = SLOT, enable: str = "on") -> str:
        """Plug a port; returns what QEMU says if it refuses, or ""."""
        return self.refusal(port.device(addr=str(slot), enable_migration=enable))

    def take(self, *ports: Mtty, enable: str = "on") -> None:
        """Plug ports that must plug, from SLOT on."""
        for slot, port in enumerate(ports, SLOT):
            self.plug(port.device(addr=str(slot), enable_migration=enable))

    def give_back(self, *ports: Mtty) -> None:
        """Unplug ports, as a guest's driver does."""
        for port in ports:
            self._give_back(port.name)

    def _give_back(self, name: str) -> None:
        self.qmp.execute("device_del", id=name)
        AcpiHotplug(self.qtest, BASES[MACHINE]).eject()
        self.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == name, GONE_S)

    @property
    def blockers(self) -> list[str]:
        """Why the VM can't migrate, in QEMU's words."""
        reasons: list[str] = self.qmp.execute("query-migrate").get("blocked-reasons", [])
        return reasons

    @property
    def status(self) -> str:
        """What query-status says."""
        status: str = self.qmp.execute("query-status")["status"]
        return status

    def wait_for(self, status: str) -> None:
        """Wait until the VM is in a state, by query-status's names.

        Raises:
            TimeoutError: it does not come to it.
        """
        poll_until(
            lambda: True if self.status == status else None,
            MOVED_S,
            lambda: f"the VM to be {status}, and it is {self.status}",
        )

    def migrate(self, uri: str = NOWHERE) -> str:
        """Migrate the VM; returns how that ended: one of ENDS.

        Raises:
            QmpRefused: it can't begin.
            TimeoutError: it does not end.
        """
        self.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
        self.qmp.execute("migrate", uri=uri)
        end = self.qmp.wait_event("MIGRATION", lambda data: data["status"] in ENDS, MOVED_S)
        # The event comes before QEMU lets the VM and its devices go on, and takes a "cont" or
        # another "migrate".  It cleans up last what can be yanked.
        poll_until(
            lambda: None if MIGRATING in self.qmp.execute("query-yank") else True,
            MOVED_S,
            lambda: "QEMU to clean up after the migration",
        )
        return str(end["status"])

    def migrate_to(self, other: "MttyMachine") -> tuple[str, str]:
        """Migrate the VM to a machine with `-incoming defer`; returns how it ended on each."""
        uri = f"unix:{Path('/run') / self.l1.name('migration-')}"
        other.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
        other.qmp.execute("migrate-incoming", uri=uri, exit_on_error=False)
        here = self.migrate(uri)
        there = other.qmp.wait_event("MIGRATION", lambda data: data["status"] in ENDS, MOVED_S)
        return here, str(there["status"])

    def map_port(self, slot: int = SLOT) -> int:
        """Give a port an address; returns the number of its first I/O port."""
        return Function(self.qtest, Bdf(0, slot, 0), self._windows).map_bars()[0].address

    @cached_property
    def _windows(self) -> Windows:
        """Where the ports' addresses are from, no two of them the same."""
        return PciBus(self.qtest).windows

    def recover(self) -> None:
        """Let the VM run, whatever state it is in."""
        if self.status == "internal-error":
            self.qmp.execute("system_reset")
            self.qmp.wait_event("RESET", lambda _: True, GONE_S)
        if self.status != "running":
            self.qmp.execute("cont")
