"""The QEMU of a batch of episodes, with its target plugged and what it needs beside it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.hw.pci import COMMAND, COMMAND_BUS_MASTER, COMMAND_MEMORY_SPACE
from qap.machine import qtest_command as command
from qap.machine.qmp import QmpRefused
from qap.machine.qtest_error import QtestError
from qap.matrix.command_line import DUT
from qap.matrix.testbed import IOVA, RING_SIZE, Testbed
from qap.measure.hostile.arena import BASE, GOOD_BASE, GOOD_SIZE, SIZE, Arena
from qap.measure.hostile.driver import HostileDriver
from qap.measure.hostile.target import Target
from qap.measure.hostile.wire import Say, Wire
from qap.measure.hostile.wire_ccw import CcwWire
from qap.measure.hostile.wire_mmio import MmioWire
from qap.measure.hostile.wire_pci import LegacyWire, ModernWire
from qap.virtio.ccw import VirtioCcw
from qap.virtio.mmio import Mmio
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import PciModern
from qap.virtio.transport import Transport

STEP_NS = 10_000_000
RESET_S = 10.0
# A disk whose requests stay in flight for a moment, and an iothread.
BESIDE = (
    "-blockdev",
    "driver=null-co,node-name=slow0,size=1048576,read-zeroes=on,latency-ns=2000000",
    "-object",
    "iothread,id=io0",
)


class BedSpent(QapError):
    """This QEMU can't be used for another episode, through no fault of its own."""


@dataclass
class Bed:
    """A running QEMU with a target.

    Use as a context manager.

    Args:
        patience: seconds after which a QEMU that does not answer hangs.
        wrapper: a command that QEMU is run by, such as a debugger.

    Attributes:
        arena: its memory.
    """

    build: Build
    target: Target
    patience: float
    wrapper: Sequence[str] = ()
    testbed: Testbed = field(init=False)
    arena: Arena = field(init=False)
    _owned: ExitStack = field(init=False, default_factory=ExitStack)
    _lost: bool = field(init=False, default=False)
    _queues: list[int] = field(init=False, default_factory=list)

    def __enter__(self) -> "Bed":
        try:
            self._start()
        except BaseException:
            self._owned.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    def _start(self) -> None:
        setup = self.target.setup
        self.testbed = Testbed(self.build, [setup], self.wrapper, census=False, args=BESIDE)
        self.testbed.spoilt = self._beside()
        self._owned.enter_context(self.testbed)
        machine = self.testbed.machine
        machine.qtest.timeout = self.patience
        machine.qmp.timeout = self.patience
        self.arena = self._owned.enter_context(Arena.of(machine))
        self.plug()

    def _beside(self) -> dict[str, object]:
        """The target's properties that name what is beside it, and others of use here."""
        kind = self.target.device
        extra: dict[str, object] = {"iothread": "io0"} if self.target.iothread else {}
        if kind == "virtio-blk":
            extra |= {"drive": "slow0", "num-queues": 2}
        if kind == "virtio-scsi":
            extra |= {"num_queues": 2}
        if kind == "virtio-balloon":
            extra |= {"free-page-reporting": True, "deflate-on-oom": True}
            if self.target.iothread:
                extra |= {"free-page-hint": True}
        return extra

    def plug(self) -> None:
        """Plug the target and what is on its bus."""
        testbed = self.testbed
        setup = self.target.setup
        testbed.plug(setup)
        if testbed.backend:
            # Its rings are malformed. What it wrote would be its own doing, not QEMU's.
            testbed.backend.expect(Exception)
            testbed.backend.service = lambda queue, readable, room: b""
        if testbed.iommu and testbed.slot.bdf:
            # Where the testbed maps them is an address that a driver may take for a strange one.
            testbed.iommu.unmap(testbed.slot.bdf, IOVA, RING_SIZE)
            testbed.iommu.map(testbed.slot.bdf, BASE, BASE, SIZE)
            testbed.iommu.map(testbed.slot.bdf, GOOD_BASE, GOOD_BASE, GOOD_SIZE)
        for device in self._children():
            testbed.machine.plug(device)

    def _children(self) -> list[dict[str, Any]]:
        bus = f"{DUT}.0"
        if self.target.device == "virtio-scsi":
            return [{"driver": "scsi-hd", "drive": "slow0", "bus": bus, "id": "disk"}]
        if self.target.device == "virtio-serial":
            return [
                {"driver": "virtserialport", "bus": bus, "name": "port", "id": "port"},
                {"driver": "virtconsole", "bus": bus, "id": "hvc"},
            ]
        return []

    def transport(self) -> Transport:
        """The target's transport, with its BARs mapped and its subchannel enabled."""
        if self._lost:
            self.rediscover()
        legacy = self.target.legacy
        return self.testbed.slot.transport(legacy=legacy)

    def rediscover(self) -> None:
        """Set up anew what a reset, or a walk, has taken from the bus."""
        self._lost = False
        self.testbed.slot.vanished()
        self.testbed.slot.appeared(self.target.setup)
        if self.testbed.iommu:
            self.testbed.iommu.enable()

    def driver(self) -> HostileDriver:
        """A hostile driver of the target."""
        self.arena.begin()
        trace: list[str] = []
        transport = self.transport()
        if not self._queues:
            for queue in range(8):
                if not (most := transport.queue_max(queue)):
                    break
                self._queues.append(most)
        driver = HostileDriver(
            self.target,
            transport,
            _wire(transport, trace.append),
            self.arena,
            self._queues,
            transport.device_features,
            lambda name: self.outside(driver, name),
            trace,
        )
        return driver

    def outside(self, driver: HostileDriver, name: str) -> bool:
        """Do something that a driver can't; returns False where that does not exist here."""
        driver.wire.flush()
        acts: dict[str, Callable[[], bool]] = {
            "system-reset": self._system_reset,
            "unplug": self._replug,
            "link-down": lambda: self._link(up=False),
            "link-up": lambda: self._link(up=True),
            "bus-master-off": lambda: self._command(0),
            "bus-master-on": lambda: self._command(COMMAND_BUS_MASTER | COMMAND_MEMORY_SPACE | 1),
            "unmap": self._unmap,
            "map": self._map,
            "clock": self._clock,
            "stop": lambda: self._execute("stop"),
            "cont": lambda: self._execute("cont"),
        }
        driver.say(name)
        if not acts[name]():
            driver.trace.pop()
            return False
        if name in ("system-reset", "unplug"):
            driver.rings.clear()
            driver.arena.release()
            driver.transport = self.transport()
            driver.wire = _wire(driver.transport, driver.say)
        return True

    def _system_reset(self) -> bool:
        machine = self.testbed.machine
        machine.qmp.execute("system_reset")
        machine.qmp.wait_event("RESET", lambda _: True, self.patience)
        self._lost = True
        return True

    def _replug(self) -> bool:
        if self.target.setup.plug == "cold":
            return False
        self.unplug()
        self.plug()
        return True

    def unplug(self) -> None:
        """Unplug the target, and wait until it is gone."""
        self.testbed.unplug(self.target.setup)
        self._lost = False

    def _link(self, *, up: bool) -> bool:
        return self._execute("set_link", name=DUT, up=up)

    def _command(self, value: int) -> bool:
        if self.testbed.slot.bus is None or self.testbed.slot.bdf is None:
            return False
        transport = self.transport()
        assert isinstance(transport, PciModern | PciLegacy)
        # Registers stay reachable: the next moves are to arrive.
        transport.function.config_write(COMMAND, 2, value or COMMAND_MEMORY_SPACE | 1)
        return True

    def _unmap(self) -> bool:
        testbed = self.testbed
        if not testbed.iommu or not testbed.slot.bdf:
            return False
        testbed.iommu.unmap(testbed.slot.bdf, BASE, SIZE)
        return True

    def _map(self) -> bool:
        testbed = self.testbed
        if not testbed.iommu or not testbed.slot.bdf:
            return False
        with suppress(QapError):
            testbed.iommu.map(testbed.slot.bdf, BASE, BASE, SIZE)
        return True

    def _clock(self) -> bool:
        if self.target.setup.machine_row.accel != "qtest":
            return False
        with suppress(QtestError):
            self.testbed.machine.qtest.run(command.clock_step(STEP_NS))
        return True

    def _execute(self, command: str, /, **arguments: object) -> bool:
        with suppress(QmpRefused):
            self.testbed.machine.qmp.execute(command, **arguments)
            return True
        return False

    def mend(self) -> None:
        """Give back what a walk took from outside, so that the next driver has it."""
        qmp = self.testbed.machine.qmp
        if qmp.execute("query-status")["status"] == "paused":
            qmp.execute("cont")
        if self.target.device.endswith("net"):
            self._link(up=True)
        self._map()
        self._lost = True

    def replace(self) -> None:
        """Plug another device, with another back-end.

        Raises:
            BedSpent: the device can't be unplugged.
        """
        if not self._replug():
            raise BedSpent("the back-end left a device that can't be unplugged")

    @property
    def backend_left(self) -> bool:
        """Whether the back-end's connection has ended."""
        backend = self.testbed.backend
        return backend is not None and not self.testbed.is_connected


def _wire(transport: Transport, say: Say) -> Wire:
    if isinstance(transport, PciModern):
        return ModernWire(transport, say)
    if isinstance(transport, PciLegacy):
        return LegacyWire(transport, say)
    if isinstance(transport, Mmio):
        return MmioWire(transport, say)
    assert isinstance(transport, VirtioCcw)
    return CcwWire(transport, say)
