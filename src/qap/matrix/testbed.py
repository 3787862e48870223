"""A site: one running QEMU in which the cells of a group are carried out."""

import json
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.hw import s390x_stub
from qap.hw.acpi_hotplug import BASES, AcpiHotplug
from qap.iommu.driver import Iommu
from qap.iommu.find import find_iommu
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.inventory import Inventory
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.machine.qtest_follow import Following
from qap.machine.spec import Spec
from qap.matrix.programs import real_backend
from qap.matrix.setup import Config
from qap.matrix.slot import Place, place_for
from qap.matrix.tables import STAYS
from qap.vhost_user import device_types
from qap.vhost_user.backend import Backend

RAM_MIB = 128
# What migrates is small, unless there are tables for an IOMMU.
MOVING_RAM_MIB = 32
RING_BASE = 16 * MIB
RING_SIZE = 8 * MIB
TABLES_BASE = 64 * MIB
TABLES_SIZE = 32 * MIB
# Above 4 GiB, so that it can't be mistaken for a guest physical address.
IOVA = 1 << 32
GONE_S = 10.0
CONNECTED_S = 10.0
RECONNECT_MS = 10
INSISTS = "x-require-iommu-platform"
DUT = "dut"
CHARDEV = "char"
BETWEEN = "between"
# Options as QMP has them: to add, to take away, and what the type is called.
QMP_FOR = {
    "-netdev": ("netdev_add", "netdev_del", "type"),
    "-object": ("object-add", "object-del", "qom_type"),
}


class Refused(QapError):
    """QEMU refused the device; str() is what it said."""


@dataclass
class Site:
    """A QEMU for configs that share machine, vIOMMU and arguments.

    Use as a context manager.

    Args:
        build: which QEMU.
        configs: what is to be plugged; a cold-plugged one has a site of its own.
        wrapper: a command that QEMU is run by, such as a debugger.
    Raises:
        QemuDied: QEMU refused its command line.
    """

    build: Build
    configs: Sequence[Config]
    wrapper: Sequence[str] = ()
    machine: Machine = field(init=False)
    session: Following = field(init=False)
    place: Place = field(init=False)
    memory: GuestMemory = field(init=False)
    mapped: GuestMemory | None = field(init=False, default=None)
    iommu: Iommu | None = field(init=False, default=None)
    backend: Backend | None = field(init=False, default=None)
    lines: list[str] = field(init=False, default_factory=list)
    _owned: ExitStack = field(init=False, default_factory=ExitStack)
    _backend: ExitStack = field(init=False, default_factory=ExitStack)
    _plugs: int = field(init=False, default=0)
    _before: Inventory | None = field(init=False, default=None)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._owned.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    @property
    def first(self) -> Config:
        return self.configs[0]

    @cached_property
    def folder(self) -> Path:
        return Path(self._owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))

    def _start(self) -> None:
        self._owned.callback(self._backend.close)
        cold = [config for config in self.configs if config.plug == "cold"]
        assert not cold or len(self.configs) == 1
        device, args = self._cold(cold[0]) if cold else (None, [])
        spec = self.spec(device, args)
        binary = self.build.path(f"qemu-system-{self.first.machine_row.qemu}")
        self._say(shlex.join([binary.name, *spec.argv()]))
        machine = Machine(binary, spec, log=self.folder / "qemu.log", wrapper=self.wrapper)
        self.machine = self._owned.enter_context(machine)
        qtest = self.session = Following(machine.qtest)
        self.place = place_for(self.first, qtest, machine)
        self.memory = GuestMemory(qtest, RING_BASE, RING_SIZE)
        if self.first.viommu_row.programmed:
            assert self.place.bus is not None
            tables = GuestMemory(qtest, TABLES_BASE, TABLES_SIZE)
            self.iommu = find_iommu(self.place.bus, tables)
            self.mapped = GuestMemory(qtest, RING_BASE, RING_SIZE, iova=IOVA)
        if self.first.viommu_row.device and not cold:
            self._warm_up()

    def _warm_up(self) -> None:
        """Plug and unplug once: a vIOMMU keeps what it makes for a slot, by design."""
        row = self.first.machine_row
        device = {"driver": f"virtio-rng-{row.transport}", "id": DUT, **row.place}
        self.machine.plug({**device, "disable-legacy": "on", "iommu_platform": True})
        self._remove(row.acpi)

    def spec(self, device: Device | None, args: Sequence[str]) -> Spec:
        """The machine as it starts, with a device or without one.

        Args:
            args: what else is on its command line.
        """
        row, viommu = self.first.machine_row, self.first.viommu_row
        devices = [dict(row.port)] if row.port else []
        devices += [device] if device else []
        if viommu.device:
            first = self.first.order != "after"
            devices.insert(0 if first else len(devices), dict(viommu.device))
        words = [word for config in self.configs for word in self._groups(config)]
        extra = [part for words in dict.fromkeys(words) for part in words]
        if row.transport == "ccw":
            extra += s390x_stub.kernel_option(self.folder)
        return Spec(
            machine=",".join(part for part in (self.first.machine_type, viommu.machine) if part),
            accel=row.accel,
            cpu=row.cpu,
            memory=MOVING_RAM_MIB if self._moves and not viommu.programmed else RAM_MIB,
            devices=devices,
            extra=[*args, *extra],
            qtest=True,
        )

    @property
    def _moves(self) -> bool:
        return any(config.destination for config in self.configs)

    def _groups(self, config: Config) -> list[tuple[str, str]]:
        """Options and their values, which devices may share."""
        args = [*config.device_row.args, *config.interface_row.args]
        args = [word.replace("{folder}", str(self.folder)) for word in args]
        return list(zip(args[::2], args[1::2], strict=True))

    def device(self, config: Config, *, insists: bool = True) -> Device:
        """The device under test, as device_add takes it.

        Args:
            insists: on ACCESS_PLATFORM, as is the default where QEMU knows of that.
        """
        row, machine = config.device_row, config.machine_row
        place = row.place or machine.place
        device: Device = {"driver": config.device_type, "id": DUT, **place}
        if row.legacy or machine.transport == "ccw":
            device |= config.interface_row.properties
        device |= row.properties
        if row.vhost_user:
            kind = device_types.all_types()[config.device]
            device |= {kind.between.property: BETWEEN} if kind.between else {"chardev": CHARDEV}
            device |= kind.properties
        if config.backend_row.ring_packed or not row.vhost_user:
            device["packed"] = True
        if config.requested:
            device["iommu_platform"] = True
        if (
            not insists
            and not config.fence_row.version
            and self._knows(config.device_type, INSISTS)
        ):
            device[INSISTS] = False
        return device

    def _knows(self, device_type: str, name: str) -> bool:
        """Whether QEMU's device has such a property; one that has not lets any driver pass."""
        listed = self.machine.qmp.execute("device-list-properties", typename=device_type)
        return any(one["name"] == name for one in listed)

    def _listen(self, config: Config) -> Path:
        """A back-end for it; returns its socket."""
        self._plugs += 1
        offer = config.backend_row
        if offer.kind == "real":
            started = real_backend(config.backend, self.build, self.folder, f"real{self._plugs}")
            return self._backend.enter_context(started).socket
        path = self.folder / f"{self._plugs}.sock"
        self.backend = device_types.backend(
            path,
            config.device,
            access_platform=offer.access_platform,
            version_1=offer.version_1,
            ring_packed=offer.ring_packed,
        )
        self._backend.enter_context(self.backend)
        return path

    def _cold(self, config: Config) -> tuple[Device, list[str]]:
        args: list[str] = []
        if config.device_row.vhost_user:
            path = self._listen(config)
            args = ["-chardev", f"socket,id={CHARDEV},path={path}"]
            between = device_types.all_types()[config.device].between
            if between:
                value = f"{between.type},id={BETWEEN},chardev={CHARDEV}"
                args += [between.option, value]
        return self._in_slot(config, self.device(config)), args

    def _in_slot(self, config: Config, device: Device) -> Device:
        """A cold-plugged device in the first slot, where the machine would choose one."""
        mmio = config.machine_row.transport == "mmio"
        return {**device, "bus": "virtio-mmio-bus.0"} if mmio else device

    def destination(self, config: Config) -> Machine:
        """Another QEMU, not started yet, that waits for this one's VM with this device."""
        device = self._in_slot(config, self.device(config, insists=config.fence_row.there))
        spec = self.spec(device, ["-incoming", "defer"])
        binary = self.build.path(f"qemu-system-{config.machine_row.qemu}")
        self._say(shlex.join([binary.name, *spec.argv()]))
        return Machine(binary, spec, log=self.folder / "destination.log")

    def follow(self, machine: Machine) -> None:
        """Go on at the QEMU that has the VM now; drivers and memory go along."""
        self.session.now = machine.qtest
        self.place.follow(machine)

    @property
    def is_connected(self) -> bool:
        """Whether QEMU has a connection to the back-end, and means to keep it."""
        listed = self.machine.qmp.execute("query-chardev")
        (name,) = [one["filename"] for one in listed if one["label"] == CHARDEV]
        return not name.startswith("disconnected:")

    def plug(self, config: Config) -> None:
        """Hot-plug it, back-end and all; for a cold-plugged one it is there already.

        Raises:
            Refused: QEMU refused the device; its back-end is gone again.
            QemuDied: QEMU ended.
        """
        if config.plug == "cold":
            self._attach(config)
            return
        del self.lines[1:]
        self._before = self._inventory()
        if config.device_row.vhost_user:
            address = {"type": "unix", "data": {"path": str(self._listen(config))}}
            data: dict[str, Any] = {"addr": address, "server": False}
            reconnects = config.device_row.reconnects and config.later != STAYS
            if reconnects:
                data["reconnect-ms"] = RECONNECT_MS
            self._qmp("chardev-add", id=CHARDEV, backend={"type": "socket", "data": data})
            if reconnects:
                # Such a chardev connects on its own time.
                poll_until(
                    lambda: self.is_connected or None,
                    CONNECTED_S,
                    lambda: "QEMU to connect to the back-end",
                )
            between = device_types.all_types()[config.device].between
            if between:
                add, _, key = QMP_FOR[between.option]
                self._qmp(add, **{key: between.type, "id": BETWEEN, "chardev": CHARDEV})
        device = self.device(config, insists=config.fence_row.here)
        self._say(f"device_add {json.dumps(device)}")
        try:
            self.machine.plug(device)
        except QmpRefused as refused:
            self._clear(config)
            raise Refused(refused.said) from None
        self._attach(config)

    def _qmp(self, command: str, **arguments: Any) -> None:
        self.say(command, **arguments)
        self.machine.qmp.execute(command, **arguments)

    def say(self, command: str, **arguments: Any) -> None:
        """Keep a command of the monitor for whoever repeats it."""
        self._say(f"{command} {json.dumps(arguments)}")

    def nameless(self, text: str) -> str:
        """A text with a name that stays the same for the folder that was made up."""
        return text.replace(str(self.folder), "$DIR")

    def _say(self, line: str) -> None:
        """Keep a line for whoever repeats it; once, for all drivers of the device do it."""
        line = self.nameless(line)
        if line not in self.lines:
            self.lines.append(line)

    def _attach(self, config: Config) -> None:
        self.place.appeared(config)
        if self.iommu and self.mapped and self.place.bdf:
            self.iommu.attach(self.place.bdf)
            self.iommu.map_memory(self.place.bdf, self.mapped)
            self.iommu.enable()

    def _clear(self, config: Config) -> None:
        if not config.device_row.vhost_user:
            return
        between = device_types.all_types()[config.device].between
        if between:
            self.machine.qmp.execute(QMP_FOR[between.option][1], id=BETWEEN)
        if between is None or between.option != "-netdev":
            # A vhost-user netdev takes its chardev along.
            self.machine.qmp.execute("chardev-remove", id=CHARDEV)
        self.backend = None
        self._backend.close()

    def unplug(self, config: Config) -> None:
        """Unplug what was hot-plugged, and wait until it is gone.

        Raises:
            TimeoutError: it stays.
        """
        if config.plug == "cold":
            return
        if self.iommu and self.place.bdf:
            self.iommu.detach(self.place.bdf)
        self._remove(config.machine_row.acpi)
        self.place.vanished()
        self._clear(config)

    def _remove(self, acpi: str | None) -> None:
        self.machine.qmp.execute("device_del", id=DUT)
        if acpi:
            AcpiHotplug(self.machine.qtest, BASES[acpi]).eject()
        self.machine.qmp.wait_event(
            "DEVICE_DELETED", lambda data: data.get("device") == DUT, GONE_S
        )

    def leftovers(self) -> list[str]:
        """What there is now that was not there before the last plug, in words."""
        if self._before is None:
            return []
        return self._inventory().beyond(self._before)

    def _inventory(self) -> Inventory:
        return Inventory.of(self.machine)
