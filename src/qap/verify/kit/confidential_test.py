"""The base of the avocado tests that boot simulated confidential guests, on any architecture."""

import hashlib
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

from qap.fork.build import Build
from qap.machine import catalog
from qap.machine.catalog import MachineType, device_types, machine_types
from qap.machine.device import Device
from qap.machine.guest import io_checks, traffic
from qap.machine.guest.boot import Boot
from qap.machine.guest.tools import MODULES as TOOLS_MODULES
from qap.machine.guest.tools import tools
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.scenario import confidential
from qap.scenario.confidential import VIOLATION, Shared
from qap.verify.kit.guest_test import GuestTest
from qap.vhost_user import programs
from qap.vhost_user.backends import backend
from qap.vhost_user.programs import BackendProcess
from qap.vhost_user.vsock import VsockHost

# Virtio device IDs (virtio 1.3, chapter 5).
BLOCK, RNG, NINEP, VSOCK, FS = 2, 4, 9, 19, 26
BLOCK_MODULES = ("virtio_blk",)
NO_ACCESS_PLATFORM = "device must provide VIRTIO_F_ACCESS_PLATFORM"
# A guest told this shares its rings, and not the buffers that it should bounce.
SHARES_TOO_LITTLE = "swiotlb=noforce"
LARGE_MIB = 64
PLUGGED_S = 60.0
GUEST_CID = 42
PORT = 1234


class GuestOptions(TypedDict, total=False):
    """What a test's machine may have beside devices.

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


class ConfidentialTest(GuestTest):
    """Boots confidential guests of one architecture.

    :avocado: disable

    Attributes:
        guest: a name of configs/guests.toml.
    """

    guest: str
    # Eleven boots take a while on a machine that does something else, too.
    timeout = 600

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
        """A device of the guest's own transport, with what configs/devices.toml says of it."""
        known = device_types()[kind].properties if kind in device_types() else {}
        return {"driver": f"{kind}-{self.place.transport}", **known, **properties}

    def spec(
        self,
        devices: Sequence[Device] = (),
        modules: Sequence[str] = (),
        **options: Unpack[GuestOptions],
    ) -> Spec:
        """A machine with a root port where devices are hot-plugged into one."""
        settings = catalog.guest(options.get("guest", self.guest))
        place = machine_types()[options.get("machine", settings.machine)]
        append, packaged = options.get("append", ""), options.get("packaged", False)
        return Spec(
            place.name,
            cpu=options.get("cpu", settings.cpu),
            memory=settings.memory,
            chardevs=options.get("chardevs", ()),
            blockdevs=options.get("blockdevs", ()),
            devices=[*place.ports, *devices],
            boot=Boot(settings, tuple(modules), append, packaged),
            extra=["-smp", str(options.get("cpus", 1)), *options.get("extra", ())],
        )

    @contextmanager
    def started(self, spec: Spec, on_violation: str = "error") -> Iterator[Machine]:
        """A machine with the simulation, which need not come up."""
        binary = self.build.path(f"qemu-system-{self.settings.qemu}")
        try:
            with Machine(binary, confidential.simulated(spec, on_violation)) as machine:
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
        """A machine whose guest has booted and takes itself for a protected one (see `spec`).

        At the end no device must have met private memory.
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
            self.log.info(confidential.prove(machine, self.settings.qemu))

    @property
    def disk(self) -> tuple[Device, list[str]]:
        """A disk in QEMU, and the block device behind it."""
        node = f"driver=file,node-name=disk,filename={self.host_data.image}"
        return self.device("virtio-blk", id="disk0", drive="disk"), [node]

    def prove_disk(self, machine: Machine) -> None:
        """Find the disk in the guest, and read and write it."""
        name = io_checks.find(machine.console, BLOCK)
        self.log.info(io_checks.disk(machine.console, self.host_data, name))

    def prove_virtiofs(self, machine: Machine) -> None:
        """Find a shared folder, and exchange files."""
        name = io_checks.find(machine.console, FS, PLUGGED_S)
        self.log.info(io_checks.files(machine.console, self.host_data, name))

    def virtiofsd(self, name: str) -> AbstractContextManager[programs.BackendProcess]:
        """Debian's, of the guest's byte order."""
        return programs.virtiofsd(
            self.folder, self.host_data.shared, self.settings.architecture, name
        )

    def prove_devices_in_qemu(self) -> None:
        """Disk, network, random numbers, serial and 9p, with data compared on both sides."""
        disk, blockdevs = self.disk
        port = self.folder / "port.sock"
        devices = [
            disk,
            self.device("virtio-net", id="net0", netdev="net"),
            self.device("virtio-rng", id="rng0"),
            self.device("virtio-serial", id="serial0"),
            {"driver": "virtserialport", "chardev": "port", "name": "port"},
            self.device("virtio-9p", id="fs0", fsdev="share", mount_tag="share"),
        ]
        options: GuestOptions = {
            "cpus": 2,
            "blockdevs": blockdevs,
            "chardevs": [f"socket,id=port,path={port},server=on,wait=off"],
            "extra": [
                *("-netdev", "user,id=net"),
                *("-fsdev", f"local,id=share,path={self.host_data.shared},security_model=none"),
            ],
        }
        modules = [*BLOCK_MODULES, "virtio_net", "virtio_rng", "virtio_console", *TOOLS_MODULES]
        with self.booted(devices, modules, **options) as machine:
            console = machine.console
            self.prove_disk(machine)
            traffic.over_network(console)
            io_checks.random(console, self.host_data, io_checks.find(console, RNG))
            traffic.over_serial(console, port)
            name = io_checks.find(console, NINEP)
            mount = "-t 9p -o trans=virtio,version=9p2000.L share"
            io_checks.files(console, self.host_data, name, mount)

    def prove_back_ends(self) -> None:
        """virtiofs, a disk of qemu-storage-daemon's and a socket of Python's, all vhost-user.

        The last one's record of what it touched is compared with what the guest shares.
        """
        daemon = self.build.path("qemu-storage-daemon")
        host = VsockHost(PORT, os.urandom(traffic.SIZE))
        cid = struct.pack("<Q", GUEST_CID)
        behind = backend(
            self.folder / "vsock.sock",
            "vhost-user-vsock",
            access_platform=False,
            config=cid,
            service=host,
        )
        with (
            behind,
            self.virtiofsd("fs") as fs,
            programs.storage_daemon(self.folder, daemon, self.host_data.image, "disk") as disk,
        ):
            sockets = {"fs": fs.socket, "disk": disk.socket, "vsock": behind.path}
            devices = [
                self.device("vhost-user-fs", id="fs0", chardev="fs"),
                self.device("vhost-user-blk", id="disk0", chardev="disk", **{"num-queues": 1}),
                self.device("vhost-user-vsock", id="vsock0", chardev="vsock"),
                self.device("virtio-9p", id="tools0", fsdev="tools", mount_tag="tools"),
            ]
            root = tools(self.settings.architecture)
            fsdev = f"local,id=tools,path={root},security_model=none,readonly=on"
            chardevs = [f"socket,id={name},path={path}" for name, path in sockets.items()]
            modules = [*BLOCK_MODULES, "virtiofs", "vmw_vsock_virtio_transport", *TOOLS_MODULES]
            options: GuestOptions = {"cpus": 2, "chardevs": chardevs, "extra": ["-fsdev", fsdev]}
            with self.booted(devices, modules, **options) as machine:
                self.prove_virtiofs(machine)
                self.prove_disk(machine)
                io_checks.find(machine.console, VSOCK)
                traffic.over_vsock(machine.console, host)
                self.assertGreater(len(behind.touched), 100)
                private = confidential.private_touched(behind, Shared.of(machine))
                self.assertEqual(private, [])

    def prove_virtiofs_comes_and_goes(self) -> None:
        """In, 64 MiB, out, and in again with a fresh virtiofsd, while a disk is read."""
        disk, blockdevs = self.disk
        modules = [*BLOCK_MODULES, "virtiofs"]
        with self.booted([disk], modules, cpus=2, blockdevs=blockdevs) as machine:
            console = machine.console
            name = io_checks.find(console, BLOCK)
            node = console.check(f"ls /sys/bus/virtio/devices/{name}/block")
            reading = (
                f"while dd if=/dev/{node} of=/dev/null bs=64k iflag=direct 2>/dev/null; "
                "do echo x >>/tmp/rounds; done"
            )
            console.check(f"({reading}; echo failed >/tmp/failed) </dev/null >/dev/null 2>&1 &")
            for turn in ("first", "second"):
                with self.virtiofsd(turn) as service:
                    self._in_and_out(machine, service, turn)
            console.check("test ! -e /tmp/failed")
            rounds = int(console.check("wc -l </tmp/rounds"))
            self.log.info("the disk was read %d times meanwhile", rounds)
            self.assertGreater(rounds, 1)

    def _in_and_out(self, machine: Machine, service: BackendProcess, name: str) -> None:
        machine.add_socket(name, service.socket)
        fs = self.device("vhost-user-fs", id="fs0", chardev=name)
        machine.plug({**fs, **self.place.place})
        self.prove_virtiofs(machine)
        self.log.info(io_checks.large_file(machine.console, self.host_data, LARGE_MIB))
        machine.unplug("fs0")
        io_checks.wait_gone(machine.console, FS)
        machine.qmp.execute("chardev-remove", id=name)

    def prove_reboots(self, times: int) -> None:
        """By turns by itself and from outside; protected each time, and its disk works."""
        disk, blockdevs = self.disk
        with self.booted([disk], BLOCK_MODULES, cpus=2, blockdevs=blockdevs) as machine:
            for turn in range(times):
                if turn % 2:
                    machine.qmp.execute("system_reset")
                else:
                    machine.console.send("reboot -f")
                machine.boot()
                self.log.info(confidential.prove(machine, self.settings.qemu))
            self.prove_disk(machine)

    def prove_kernel(self, guest: str) -> None:
        """Another kernel boots protected, reads and writes a disk and mounts virtiofs."""
        disk, blockdevs = self.disk
        with self.virtiofsd("fs") as service:
            fs = self.device("vhost-user-fs", chardev="fs")
            chardevs = [f"socket,id=fs,path={service.socket}"]
            modules = [*BLOCK_MODULES, "virtiofs"]
            options: GuestOptions = {"guest": guest, "chardevs": chardevs, "blockdevs": blockdevs}
            with self.booted([disk, fs], modules, **options) as machine:
                self.prove_disk(machine)
                self.prove_virtiofs(machine)

    def prove_refusal_by_the_driver(self) -> None:
        """The guest's own driver leaves a device alone that could reach all of its memory."""
        bare = self.device("virtio-rng", iommu_platform=False)
        with self.booted([bare], ["virtio_rng"]) as machine:
            said = machine.console.check("dmesg | grep 'must provide'")
            self.assertIn(NO_ACCESS_PLATFORM, said)
            machine.console.check("! grep -q virtio /sys/class/misc/hw_random/rng_available")

    def prove_enforcement(self) -> None:
        """A guest that shares its rings alone gets nothing, and the event names the device.

        It waits for the partition table for ever, and so never comes up.
        """
        disk, blockdevs = self.disk
        spec = self.spec([disk], BLOCK_MODULES, append=SHARES_TOO_LITTLE, blockdevs=blockdevs)
        with self.started(spec) as machine:
            seen = machine.qmp.wait_event(VIOLATION, lambda data: True, PLUGGED_S)
            self.assertEqual((seen["device"], seen["action"]), ("disk0", "error"))

    def prove_report(self) -> None:
        """Where violations are but reported, such a guest goes on, and its data are right."""
        disk, blockdevs = self.disk
        spec = self.spec([disk], BLOCK_MODULES, append=SHARES_TOO_LITTLE, blockdevs=blockdevs)
        with self.started(spec, "report") as machine:
            machine.boot()
            image = hashlib.sha256(self.host_data.image.read_bytes()).hexdigest()
            found = machine.console.check("dd if=/dev/vda bs=1M 2>/dev/null | sha256sum")
            self.assertEqual(found.split()[0], image)
            reads, writes = Shared.of(machine).violations["disk0"]
            self.assertGreater(reads, 0)
            self.assertGreater(writes, 0)
