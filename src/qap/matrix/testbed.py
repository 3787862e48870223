"""A testbed: one running QEMU in which the cells of a group are carried out."""

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.hw.acpi_hotplug import BASES, AcpiHotplug
from qap.iommu.driver import Iommu
from qap.iommu.find import find_iommu
from qap.lab.l2 import L2
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.newer import completed, is_newer
from qap.machine.qmp import QmpRefused
from qap.machine.qtest_follow import MovingQtest
from qap.machine.recording import Recording, traced
from qap.machine.resources import Footprint
from qap.machine.spec import Spec
from qap.matrix.chardev import Chardev
from qap.matrix.command_line import (
    DUT,
    INSISTS,
    backend_args,
    device_under_test,
    in_slot,
    machine_spec,
)
from qap.matrix.lab import CellLab
from qap.matrix.programs import real_backend
from qap.matrix.setup import Setup
from qap.matrix.slot import Slot, slot_for
from qap.oracle.features import mask
from qap.vhost_user import backends
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import Misbehaviour
from qap.vhost_user.protocol import ProtocolFeature

RING_BASE = 16 * MIB
RING_SIZE = 8 * MIB
TABLES_BASE = 64 * MIB
TABLES_SIZE = 32 * MIB
# Above 4 GiB, so that it can't be mistaken for a guest physical address.
IOVA = 1 << 32
LOG = "qemu.log"
GONE_S = 10.0


class Refused(QapError):
    """QEMU refused the device; str() is what it said."""


@dataclass
class Testbed:
    """A QEMU for configs that share machine, vIOMMU and arguments.

    Use as a context manager.

    Args:
        build: which QEMU.
        configs: what is to be plugged; a cold-plugged one has a testbed of its own.
        wrapper: a command that QEMU is run by, such as a debugger.
        census: count before each plug what QEMU holds, for `leftovers`.
        args: what else is on QEMU's command line.
        lab: where QEMU runs, if not here.
        recording: gathers what is said.
    Attributes:
        misbehaviour: what the next Python back-end does wrong.
        spoilt: properties that make QEMU refuse the next device.
        said: what QEMU has printed, once it has ended.
        newer: its vIOMMU has all the properties that configs/viommus.toml sets in newer ones.
    Raises:
        QemuDied: QEMU refused its command line.
    """

    __test__ = False  # no test of pytest's

    build: Build
    configs: Sequence[Setup]
    wrapper: Sequence[str] = ()
    census: bool = True
    args: Sequence[str] = ()
    lab: CellLab | None = None
    recording: Recording | None = None
    misbehaviour: Sequence[Misbehaviour] = field(init=False, default=())
    spoilt: Mapping[str, object] = field(init=False, default_factory=dict)
    said: str = field(init=False, default="")
    newer: bool = field(init=False, default=False)
    machine: Machine = field(init=False)
    session: MovingQtest = field(init=False)
    slot: Slot = field(init=False)
    memory: GuestMemory = field(init=False)
    mapped: GuestMemory | None = field(init=False, default=None)
    iommu: Iommu | None = field(init=False, default=None)
    backend: Backend | None = field(init=False, default=None)
    lines: list[str] = field(init=False, default_factory=list)
    _owned: ExitStack = field(init=False, default_factory=ExitStack)
    _backend: ExitStack = field(init=False, default_factory=ExitStack)
    _plugs: int = field(init=False, default=0)
    _before: Footprint | None = field(init=False, default=None)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._owned.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._owned.__exit__(kind, value, trace)

    @property
    def first(self) -> Setup:
        return self.configs[0]

    @cached_property
    def folder(self) -> Path:
        parent = self.lab.l1.folder if self.lab else None
        scratch = tempfile.TemporaryDirectory(prefix="qap-", dir=parent)
        return Path(self._owned.enter_context(scratch))

    def _start(self) -> None:
        # The folder first: it has to be there when the log is read.
        self._owned.callback(self._keep_log, self.folder / LOG)
        self._owned.push(self._backend)
        cold = [config for config in self.configs if config.plug == "cold"]
        assert not cold or len(self.configs) == 1
        device, args = self._cold(cold[0]) if cold else (None, [])
        if self.lab:
            self.lab.forget()
        recording = self.recording
        traces = traced(self.folder) if recording else []
        spec = machine_spec(self.configs, self.folder, device, [*self.args, *args, *traces])
        binary = self.build.path(f"qemu-system-{self.first.machine_row.qemu}")
        viommu = self.first.viommu_row.device
        self.newer = viommu is None or is_newer(str(viommu["driver"]), binary)
        self._say(shlex.join([binary.name, *completed(spec, binary).argv()]))
        machine = self.machine = self._machine(binary, spec)
        if recording:
            self._owned.callback(recording.end, machine, self.folder / LOG)
            if self.lab:
                self._owned.callback(recording.keep_kernel, self.lab.l1.machine)
        self._owned.enter_context(machine)
        if recording:
            recording.begin(machine)
        qtest = self.session = MovingQtest(machine.qtest)
        self.slot = slot_for(self.first, qtest, machine)
        self.memory = GuestMemory(qtest, RING_BASE, RING_SIZE)
        if self.first.viommu_row.programmed:
            assert self.slot.bus is not None
            tables = GuestMemory(qtest, TABLES_BASE, TABLES_SIZE)
            self.iommu = find_iommu(self.slot.bus, tables)
            self.mapped = GuestMemory(qtest, RING_BASE, RING_SIZE, iova=IOVA)
        elif self.first.machine_row.translates:
            self.mapped = GuestMemory(qtest, RING_BASE, RING_SIZE, iova=IOVA)
        if self.first.viommu_row.device and not cold:
            self._warm_up()

    def _machine(self, binary: Path, spec: Spec) -> Machine:
        """The QEMU that the devices are plugged into, not started yet."""
        log = self.folder / LOG
        if self.lab:
            return L2(binary, spec, log=log, l1=self.lab.l1)
        return Machine(binary, spec, log=log, wrapper=self.wrapper)

    def _keep_log(self, log: Path) -> None:
        self.said = log.read_text(errors="replace") if log.exists() else ""

    def _warm_up(self) -> None:
        """Plug and unplug once: a vIOMMU keeps what it makes for a slot, by design."""
        row = self.first.machine_row
        device = {"driver": f"virtio-rng-{row.transport}", "id": DUT, **row.place}
        self.machine.plug({**device, "disable-legacy": "on", "iommu_platform": True})
        self._remove(row.acpi)

    def device(self, config: Setup, *, insists: bool = True) -> Device:
        """The device under test, as device_add takes it, with the `spoilt` properties.

        Args:
            insists: on ACCESS_PLATFORM: the default of a QEMU that has a property for it.
        """
        lenient = not insists and not config.fence_row.version
        lenient = lenient and self._knows(config.device_type, INSISTS)
        return {**device_under_test(config, lenient=lenient), **self.spoilt}

    def _knows(self, device_type: str, name: str) -> bool:
        """Whether QEMU's device has such a property."""
        properties = self.machine.qmp.execute("device-list-properties", typename=device_type)
        return any(entry["name"] == name for entry in properties)

    def _listen(self, config: Setup) -> Path:
        """Start a back-end for the device; returns its socket."""
        self._plugs += 1
        offer = config.backend_row
        if offer.kind == "real":
            started = real_backend(config.backend, self.build, self.folder, f"real{self._plugs}")
            return self._backend.enter_context(started).socket
        path = self.folder / f"{self._plugs}.sock"
        served = config.device_row.vhost_user
        assert served is not None
        self.backend = backends.backend(
            path,
            config.device,
            access_platform=offer.access_platform,
            version_1=offer.version_1,
            ring_packed=offer.ring_packed,
            config=bytes(range(1, 1 + served.config)),
            misbehaviour=self.misbehaviour,
        )
        self._backend.enter_context(self.backend)
        self.backend.protocol_features &= ~mask(ProtocolFeature[name] for name in offer.lacks)
        return path

    def _cold(self, config: Setup) -> tuple[Device, list[str]]:
        args = backend_args(config, self._listen(config)) if config.device_row.vhost_user else []
        return in_slot(config, self.device(config)), args

    def destination(self, config: Setup) -> Machine:
        """The QEMU to which the VM with this device migrates; it is not started yet."""
        device = in_slot(config, self.device(config, insists=config.fence_row.there))
        spec = machine_spec(self.configs, self.folder, device, ["-incoming", "defer"])
        binary = self.build.path(f"qemu-system-{config.machine_row.qemu}")
        self._say(shlex.join([binary.name, *completed(spec, binary).argv()]))
        return Machine(binary, spec, log=self.folder / "destination.log")

    def follow(self, machine: Machine) -> None:
        """Use the QEMU that has the VM now, also for drivers and memory."""
        self.session.now = machine.qtest
        self.slot.follow(machine)

    @property
    def is_connected(self) -> bool:
        """Whether QEMU is connected to the back-end and keeps the connection."""
        return self._chardev.is_connected

    @property
    def _chardev(self) -> Chardev:
        return Chardev(self.machine.qmp, self.say)

    def plug(self, config: Setup) -> None:
        """Hot-plug the device and its back-end; a cold-plugged device is there already.

        Raises:
            Refused: QEMU refused the device; its back-end is gone again.
            QemuDied: QEMU ended.
        """
        if config.plug == "cold":
            self._attach(config)
            return
        del self.lines[1:]
        if self.lab:
            self.lab.forget()
        self._before = Footprint.of(self.machine) if self.census else None
        if config.device_row.vhost_user:
            self._chardev.add(config, self._listen(config))
        device = self.device(config, insists=config.fence_row.here)
        self._say(f"device_add {json.dumps(device)}")
        try:
            self.machine.plug(device)
        except QmpRefused as refused:
            try:
                self._clear(config)
            except QapError as failed:
                raise QapError(f"{refused.said}; {failed}") from failed
            raise Refused(refused.said) from None
        self._attach(config)

    def say(self, command: str, **arguments: object) -> None:
        """Record a QMP command for those who repeat the cell by hand."""
        self._say(f"{command} {json.dumps(arguments)}")

    def nameless(self, text: str) -> str:
        """A text with $DIR for the temporary folder, so that it is the same in each run."""
        return text.replace(str(self.folder), "$DIR")

    def _say(self, line: str) -> None:
        """Record a line for those who repeat the cell by hand; once for all drivers of a device."""
        line = self.nameless(line)
        if line not in self.lines:
            self.lines.append(line)

    def _attach(self, config: Setup) -> None:
        self.slot.appeared(config)
        if self.mapped and not self.iommu:
            tables = GuestMemory(self.session, TABLES_BASE, TABLES_SIZE)
            self.slot.map_memory(tables, self.mapped)
        if self.iommu and self.mapped and self.slot.bdf:
            self.iommu.attach(self.slot.bdf)
            self.iommu.map_memory(self.slot.bdf, self.mapped)
            if config.ats:
                self.slot.use_ats(self.iommu)
            self.iommu.enable()

    def _clear(self, config: Setup) -> None:
        if not config.device_row.vhost_user:
            return
        self._chardev.remove(config)
        self.backend = None
        self._backend.close()

    def unplug(self, config: Setup) -> None:
        """Unplug what was hot-plugged, and wait until it is gone.

        Raises:
            TimeoutError: the device is still there.
        """
        if config.plug == "cold":
            return
        if self.iommu and self.slot.bdf:
            self.iommu.detach(self.slot.bdf)
        self._remove(config.machine_row.acpi)
        self.slot.vanished()
        self._clear(config)

    def _remove(self, acpi: str | None) -> None:
        self.machine.qmp.execute("device_del", id=DUT)
        if acpi:
            AcpiHotplug(self.machine.qtest, BASES[acpi]).eject()
        self.slot.let_go()
        self.machine.qmp.wait_event(
            "DEVICE_DELETED", lambda data: data.get("device") == DUT, GONE_S
        )

    def leftovers(self) -> list[str]:
        """What QEMU holds now and did not hold before the last plug, in words."""
        if self._before is None:
            return []
        return Footprint.settled(self.machine, self._before).beyond(self._before)
