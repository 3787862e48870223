"""A site: one running QEMU in which the cells of a group are carried out."""

import json
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from qap import s390x_stub
from qap.acpi_hotplug import BASES, AcpiHotplug
from qap.build import Build
from qap.errors import QapError
from qap.iommu.find import find_iommu
from qap.iommu.iommu import Iommu
from qap.machine import Device, Machine, Spec, address_spaces
from qap.matrix.cell import Config
from qap.matrix.place import Place, place_for
from qap.matrix.real import real_backend
from qap.qmp import QmpRefused
from qap.vhost_user import model
from qap.vhost_user.backend import Backend
from qap.virtio.memory import MIB, GuestMemory

RAM_MIB = 128
RING_BASE = 16 * MIB
RING_SIZE = 8 * MIB
TABLES_BASE = 64 * MIB
TABLES_SIZE = 32 * MIB
# Above 4 GiB, so that it can't be mistaken for a guest physical address.
IOVA = 1 << 32
GONE_S = 10.0
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
    place: Place = field(init=False)
    memory: GuestMemory = field(init=False)
    mapped: GuestMemory | None = field(init=False, default=None)
    iommu: Iommu | None = field(init=False, default=None)
    backend: Backend | None = field(init=False, default=None)
    lines: list[str] = field(init=False, default_factory=list)
    _owned: ExitStack = field(init=False, default_factory=ExitStack)
    _backend: ExitStack = field(init=False, default_factory=ExitStack)
    _plugs: int = field(init=False, default=0)
    _before: "Inventory | None" = field(init=False, default=None)

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
        self.place = place_for(self.first, machine)
        qtest = machine.qtest
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
        """The machine as it starts."""
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
            machine=",".join(part for part in (row.type, viommu.machine) if part),
            accel=row.accel,
            cpu=row.cpu,
            memory=RAM_MIB,
            devices=devices,
            extra=[*args, *extra],
            qtest=True,
        )

    def _groups(self, config: Config) -> list[tuple[str, str]]:
        """Options and their values, which devices may share."""
        args = [*config.device_row.args, *config.interface_row.args]
        args = [word.replace("{folder}", str(self.folder)) for word in args]
        return list(zip(args[::2], args[1::2], strict=True))

    def device(self, config: Config) -> Device:
        """The device under test, as device_add takes it."""
        row, machine = config.device_row, config.machine_row
        place = row.place or machine.place
        device: Device = {"driver": config.device_type, "id": DUT, **place}
        if row.legacy or machine.transport == "ccw":
            device |= config.interface_row.properties
        device |= row.properties
        if row.vhost_user:
            kind = model.all_types()[config.device]
            device |= {kind.between.property: BETWEEN} if kind.between else {"chardev": CHARDEV}
            device |= kind.properties
        if config.backend_row.ring_packed or not row.vhost_user:
            device["packed"] = True
        if config.requested:
            device["iommu_platform"] = True
        return device

    def _listen(self, config: Config) -> Path:
        """A back-end for it; returns its socket."""
        self._plugs += 1
        offer = config.backend_row
        if offer.kind == "real":
            started = real_backend(config.backend, self.build, self.folder, f"real{self._plugs}")
            return self._backend.enter_context(started).socket
        path = self.folder / f"{self._plugs}.sock"
        self.backend = model.backend(
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
            between = model.all_types()[config.device].between
            if between:
                value = f"{between.type},id={BETWEEN},chardev={CHARDEV}"
                args += [between.option, value]
        device = self.device(config)
        if config.machine_row.transport == "mmio":
            # The first slot, whichever the machine would choose.
            device["bus"] = "virtio-mmio-bus.0"
        return device, args

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
            data = {"addr": address, "server": False}
            self._qmp("chardev-add", id=CHARDEV, backend={"type": "socket", "data": data})
            between = model.all_types()[config.device].between
            if between:
                add, _, key = QMP_FOR[between.option]
                self._qmp(add, **{key: between.type, "id": BETWEEN, "chardev": CHARDEV})
        device = self.device(config)
        self._say(f"device_add {json.dumps(device)}")
        try:
            self.machine.plug(device)
        except QmpRefused as refused:
            self._clear(config)
            raise Refused(refused.said) from None
        self._attach(config)

    def _qmp(self, command: str, **arguments: Any) -> None:
        self._say(f"{command} {json.dumps(arguments)}")
        self.machine.qmp.execute(command, **arguments)

    def nameless(self, text: str) -> str:
        """A text with a name that stays the same for the folder that was made up."""
        return text.replace(str(self.folder), "$DIR")

    def _say(self, line: str) -> None:
        """Keep a line for whoever repeats it."""
        self.lines.append(self.nameless(line))

    def _attach(self, config: Config) -> None:
        self.place.appeared(config)
        if self.iommu and self.mapped and self.place.bdf:
            self.iommu.attach(self.place.bdf)
            self.iommu.map_memory(self.place.bdf, self.mapped)
            self.iommu.enable()

    def _clear(self, config: Config) -> None:
        if not config.device_row.vhost_user:
            return
        between = model.all_types()[config.device].between
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

    def _inventory(self) -> "Inventory":
        qmp = self.machine.qmp
        spaces = Counter(address_spaces(qmp.hmp("info mtree -f")))
        objects = {
            f"{path}/{child['name']}"
            for path in ("/machine/peripheral", "/machine/peripheral-anon", "/chardevs")
            for child in qmp.execute("qom-list", path=path)
        }
        fds = len(os.listdir(f"/proc/{self.machine.child.pid}/fd"))  # noqa: PTH208
        return Inventory(spaces, objects, fds)


@dataclass(frozen=True)
class Inventory:
    """What a QEMU has: AddressSpaces by name, QOM children, open file descriptors."""

    spaces: Counter[str]
    objects: set[str]
    fds: int

    def beyond(self, before: "Inventory") -> list[str]:
        """What is here and was not there."""
        spaces = [
            f"{count} AddressSpace {name}" for name, count in (self.spaces - before.spaces).items()
        ]
        objects = [f"QOM {path}" for path in sorted(self.objects - before.objects)]
        more = self.fds - before.fds
        return [*spaces, *objects, *([f"{more} file descriptors"] if more > 0 else [])]
