"""Machines without a guest, and vhost-user back-ends in Python for them."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

from qap.fork.build import Build
from qap.hw.s390x_stub import kernel_option
from qap.machine.catalog import device_types, machine_types, vhost_user_types, viommus
from qap.machine.device import Device
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import SHARED, Spec
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.misbehave import Misbehaviour
from qap.virtio.transports import RAM_MIB, TRANSPORTS

# The size of the tests' disk.
SECTORS = 2048


class MachineOptions(TypedDict, total=False):
    """Options of `Lab.machine` other than the devices.

    Attributes:
        viommu: a name of configs/viommus.toml.
        order: the vIOMMU's place, seen from the devices: before or after.
        bypass: the root bus bypasses it.
        accel, memory, memory_backend, blockdevs, extra, qtest: as in Spec; the defaults are
            accelerator qtest and 128 MiB.
    """

    viommu: str
    order: str
    bypass: bool
    accel: str
    memory: int
    memory_backend: str
    blockdevs: Sequence[str]
    extra: Sequence[str]
    qtest: bool


@dataclass
class Lab:
    """Starts machines and back-ends, and ends them with `owned`.

    Args:
        build: which QEMU.
        folder: for sockets and logs; its path must be short, as unix(7) has a limit.
        owned: ends everything that is started here.
    """

    build: Build
    folder: Path
    owned: ExitStack = field(default_factory=ExitStack)
    backends: list[Backend] = field(default_factory=list)

    def backend(
        self,
        kind: str,
        *misbehaviour: Misbehaviour,
        access_platform: bool = False,
        config: bytes | None = None,
    ) -> Backend:
        """A back-end for a vhost-user device type, listening; `config` as in `backend`."""
        path = self.folder / f"{kind}-{len(self.backends)}.sock"
        started = self.owned.enter_context(
            backend(
                path,
                kind,
                access_platform=access_platform,
                config=config,
                misbehaviour=misbehaviour,
            )
        )
        self.backends.append(started)
        return started

    def device(self, kind: str, behind: Backend, **properties: object) -> Device:
        """The -pci device of this type in front of a back-end, with iommu_platform=on.

        Args:
            properties: more properties, with underscores instead of dashes.
        """
        return {
            "driver": f"{kind}-pci",
            "id": "dut",
            "bus": "port0",
            "chardev": behind.path.stem,
            **device_types()[kind].properties,
            "iommu_platform": True,
            **{name.replace("_", "-"): value for name, value in properties.items()},
        }

    def machine(self, *devices: Device, **options: Unpack[MachineOptions]) -> Machine:
        """A q35 with a root port, these devices, and a vIOMMU before or after them.

        Raises:
            QemuDied: QEMU refused its command line.
        """
        listed = [*machine_types()["q35"].ports, *devices]
        iommu = viommus()[options.get("viommu", "none")].device
        if iommu:
            before = options.get("order", "before") == "before"
            listed.insert(0 if before else len(listed), dict(iommu))
        spec = Spec(
            machine="q35,default-bus-bypass-iommu=on" if options.get("bypass") else "q35",
            accel=options.get("accel", "qtest"),
            memory=options.get("memory", 128),
            memory_backend=options.get("memory_backend", SHARED),
            blockdevs=options.get("blockdevs", ()),
            extra=options.get("extra", ()),
            qtest=options.get("qtest", False),
            devices=listed,
            chardevs=self._chardevs,
        )
        return self.start("qemu-system-x86_64", spec)

    def s390x(
        self,
        *devices: Device,
        machine: str = "s390-ccw-virtio",
        blockdevs: Sequence[str] = (),
        extra: Sequence[str] = (),
    ) -> Machine:
        """An s390-ccw-virtio with these devices, whose CPU waits for work (`qap.hw.s390x_cpu`).

        Raises:
            QemuDied: QEMU refused its command line.
        """
        spec = Spec(
            machine=machine,
            cpu="max",
            memory=128,
            devices=devices,
            blockdevs=blockdevs,
            chardevs=self._chardevs,
            extra=[*extra, *kernel_option(self.folder)],
            qtest=True,
        )
        return self.start("qemu-system-s390x", spec)

    @property
    def _chardevs(self) -> list[str]:
        return [f"socket,id={behind.path.stem},path={behind.path}" for behind in self.backends]

    def start(self, emulator: str, spec: Spec) -> Machine:
        """Start any machine; it ends with the lab.

        Raises:
            QemuDied: QEMU refused its command line.
        """
        machine = Machine(self.build.path(emulator), spec, log=self.log())
        return self.owned.enter_context(machine)

    def log(self) -> Path:
        """A file for what one more QEMU prints: two would write over each other's lines."""
        number = len(list(self.folder.glob("qemu*.log")))
        return self.folder / (f"qemu-{number + 1}.log" if number else "qemu.log")

    def listening(self, path: Path) -> socket.socket:
        """A Unix socket that listens on `path`; closed at the end of the lab, or before."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.owned.callback(listener.close)
        listener.bind(str(path))
        listener.listen(1)
        return listener

    def cold_plugged(
        self,
        kind: str,
        behind: Backend,
        variant: str,
        *,
        properties: Mapping[str, object] | None = None,
        machine_type: str | None = None,
        chardev: str = "",
        memory_backend: str = SHARED,
    ) -> Machine:
        """A machine with nothing but a vhost-user device in front of a back-end.

        Args:
            variant: one of TRANSPORTS, and how the device shows itself there.
            properties: of the device, with dashes.
            machine_type: another one than the variant's.
            chardev: more options of the chardev, each after a comma.
            memory_backend: as in Spec.
        Raises:
            QemuDied: QEMU refused its command line.
        """
        row, way = vhost_user_types()[kind], TRANSPORTS[variant]
        device, words = row.pci(behind.path.stem)
        if way.suffix == "device":
            device = {**device, "driver": row.driver("mmio")}
        elif row.legacy:
            device = {**device, **way.properties}
        spec = Spec(
            machine=machine_type or way.machine,
            accel=way.accel,
            memory=RAM_MIB,
            memory_backend=memory_backend,
            chardevs=[f"socket,id={behind.path.stem},path={behind.path}{chardev}"],
            devices=[{**device, **(properties or {})}],
            extra=[*way.extra, *words],
            qtest=True,
        )
        return self.start(way.emulator, spec)

    def cold_refusal(self, *devices: Device, **options: Unpack[MachineOptions]) -> str:
        """What QEMU says when it refuses these devices at start; "" if it starts."""
        try:
            self.machine(*devices, **options)
        except QemuDied as died:
            assert died.status == 1, f"QEMU ended with status {died.status}: {died.said}"
            return died.said
        return ""
