"""The machine of an avocado test that boots a simulated confidential guest."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

from qap.fork.build import Build
from qap.machine import catalog
from qap.machine.catalog import MachineType, device_types, machine_types
from qap.machine.device import Device
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.scenario import confidential
from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.guest_test import GuestTest


class GuestOptions(TypedDict, total=False):
    """Options of a test's machine other than its devices.

    Attributes:
        guest: a name of configs/guests.toml other than the test's.
        machine: a machine type other than the guest's.
        cpus: how many.
        cpu, chardevs, blockdevs, extra: as in Spec.
        append, packaged: as in Boot.
    """

    guest: str
    machine: str
    cpus: int
    cpu: str
    chardevs: Sequence[str]
    blockdevs: Sequence[str]
    extra: Sequence[str]
    append: str
    packaged: bool


class ConfidentialMachine(GuestTest):
    """Boots confidential guests of one kind.

    :avocado: disable

    Attributes:
        kind: what they take themselves for.
        guest: a name of configs/guests.toml.
        firmware: options for firmware that boots the kernel as its package has it.
        options: further properties of x-confidential-sim, each with a comma before it.
    """

    kind: ConfidentialKind
    guest: str
    firmware: Sequence[str] = ()
    options = ""
    # Eleven boots take long on a machine with other load.
    timeout = 1800

    def setUp(self) -> None:
        self.build = Build.under_test()
        self.owned = ExitStack()
        self.addCleanup(self.owned.close)
        self.folder = Path(self.owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
        self.host_data = io_checks.HostData(self.folder)
        self.host_data.prepare()

    @property
    def settings(self) -> catalog.Guest:
        return catalog.guest(self.guest)

    @property
    def place(self) -> MachineType:
        return machine_types()[self.settings.machine]

    def device(self, kind: str, **properties: object) -> Device:
        """A device of the guest's transport, with its properties of configs/devices.toml."""
        known = device_types()[kind].properties if kind in device_types() else {}
        return {"driver": f"{kind}-{self.place.transport}", **known, **properties}

    def spec(
        self,
        devices: Sequence[Device] = (),
        modules: Sequence[str] = (),
        **options: Unpack[GuestOptions],
    ) -> Spec:
        """A machine; it has a root port if its devices are hot-plugged into one."""
        settings = catalog.guest(options.get("guest", self.guest))
        place = machine_types()[options.get("machine", settings.machine)]
        append, packaged = options.get("append", ""), options.get("packaged", False)
        packaged = packaged or bool(self.firmware)
        return Spec(
            place.name,
            cpu=options.get("cpu", settings.cpu),
            memory=settings.memory,
            chardevs=options.get("chardevs", ()),
            blockdevs=options.get("blockdevs", ()),
            devices=[*place.ports, *devices],
            boot=Boot(settings, tuple(modules), append, packaged),
            extra=[
                *("-smp", str(options.get("cpus", 1))),
                *self.firmware,
                *options.get("extra", ()),
            ],
        )

    @contextmanager
    def started(self, spec: Spec, on_violation: str = "error") -> Iterator[Machine]:
        """A machine with the simulation; its guest is not waited for."""
        binary = self.build.path(f"qemu-system-{self.settings.qemu}")
        try:
            with Machine(
                binary, confidential.simulated(spec, self.kind, on_violation, self.options)
            ) as machine:
                yield machine
        except QemuDied as died:
            self.fail(f"{died}: {died.said}")

    @contextmanager
    def booted(
        self,
        devices: Sequence[Device] = (),
        modules: Sequence[str] = (),
        **options: Unpack[GuestOptions],
    ) -> Iterator[Machine]:
        """A machine whose guest has booted as a confidential one (see `spec`).

        At the end, checks that no device has accessed private memory.
        """
        with self.started(self.spec(devices, modules, **options)) as machine:
            start = time.monotonic()
            release = machine.boot()
            self.log.info("%s booted in %.1f s", release, time.monotonic() - start)
            cpus = options.get("cpus", 1)
            self.assertEqual(
                machine.console.check("ls -d /sys/bus/cpu/devices/* | wc -l"), str(cpus)
            )
            yield machine
            self.log.info(confidential.prove(machine, self.kind))

    @contextmanager
    def booted_with(
        self,
        devices: Sequence[Device],
        modules: Sequence[str],
        *,
        hot: bool,
        **options: Unpack[GuestOptions],
    ) -> Iterator[Machine]:
        """A machine as of `booted`.

        Args:
            hot: plug the devices once the guest is up, each PCI function into its own root port.
        """
        if not hot:
            with self.booted(devices, modules, **options) as machine:
                yield machine
            return
        own = [number for number, one in enumerate(devices) if self._needs_port(one)]
        port = self.place.port or {}
        # The machine's own root port has chassis 1.
        ports = [
            {"driver": port["driver"], "id": f"own{number}", "chassis": number + 2}
            for number in own
        ]
        with self.booted(ports, modules, **options) as machine:
            for number, one in enumerate(devices):
                machine.plug({**one, "bus": f"own{number}"} if number in own else one)
            yield machine

    def _needs_port(self, device: Device) -> bool:
        """Whether a device can only be hot-plugged into a root port."""
        return self.place.port is not None and str(device["driver"]).endswith("-pci")

    @property
    def disk(self) -> tuple[Device, list[str]]:
        """A disk in QEMU, and the block device behind it."""
        node = f"driver=file,node-name=disk,filename={self.host_data.image}"
        return self.device("virtio-blk", id="disk0", drive="disk"), [node]
