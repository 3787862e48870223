"""The base of the avocado tests that boot simulated confidential guests, on any architecture."""

import hashlib
import os
import struct
from contextlib import AbstractContextManager
from typing import Unpack

from qap.machine.guest import io_checks, traffic
from qap.machine.guest.tools import MODULES as TOOLS_MODULES
from qap.machine.guest.tools import tools
from qap.machine.machine import Machine
from qap.scenario import confidential
from qap.scenario.confidential import VIOLATION, Shared
from qap.verify.kit.confidential_machine import ConfidentialMachine, GuestOptions
from qap.vhost_user import programs
from qap.vhost_user.backends import backend
from qap.vhost_user.programs import BackendProcess
from qap.vhost_user.vsock import VsockHost

# Virtio device IDs (virtio 1.3, chapter 5).
NET, BLOCK, SERIAL, RNG, NINEP, VSOCK, FS = 1, 2, 3, 4, 9, 19, 26
BLOCK_MODULES = ("virtio_blk",)
NO_ACCESS_PLATFORM = "device must provide VIRTIO_F_ACCESS_PLATFORM"
# With this kernel option a guest shares its rings, but does not bounce its buffers.
SHARES_TOO_LITTLE = "swiotlb=noforce"
LARGE_MIB = 64
# What a guest with this much memory bounces its I/O through.
SWIOTLB_PAGES = 64 * 256
PLUGGED_S = 60.0
# A protected guest's kernel, until it looks for its disks.
BOOTED_S = 180.0
GUEST_CID = 42
PORT = 1234


class ConfidentialTest(ConfidentialMachine):
    """Boots confidential guests of one kind.

    :avocado: disable
    """

    def prove_disk(self, machine: Machine) -> None:
        """Find the disk in the guest, and read and write it."""
        name = io_checks.find(machine.console, BLOCK)
        self.log.info(io_checks.disk(machine.console, self.host_data, name))

    def prove_boot(self, **options: Unpack[GuestOptions]) -> None:
        """A guest with these options boots protected, and reads and writes a disk.

        It shares more than what it bounces its I/O through.
        """
        disk, options["blockdevs"] = self.disk
        with self.booted([disk], BLOCK_MODULES, **options) as machine:
            self.prove_disk(machine)
            self.assertGreater(Shared.of(machine).shared, SWIOTLB_PAGES)

    def prove_virtiofs(self, machine: Machine) -> None:
        """Find a shared folder, and exchange files."""
        name = io_checks.find(machine.console, FS, PLUGGED_S)
        self.log.info(io_checks.files(machine.console, self.host_data, name))

    def virtiofsd(self, name: str) -> AbstractContextManager[programs.BackendProcess]:
        """Debian's virtiofsd of the guest's architecture, so that the byte order is the same."""
        return programs.virtiofsd(
            self.folder, self.host_data.shared, self.settings.architecture, name
        )

    def prove_devices_in_qemu(self, *, hot: bool = False) -> None:
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
        with self.booted_with(devices, modules, hot=hot, **options) as machine:
            console = machine.console
            self.prove_disk(machine)
            io_checks.find(console, NET)
            traffic.over_network(console)
            io_checks.random(console, self.host_data, io_checks.find(console, RNG))
            io_checks.find(console, SERIAL)
            traffic.over_serial(console, port)
            name = io_checks.find(console, NINEP)
            mount = "-t 9p -o trans=virtio,version=9p2000.L share"
            io_checks.files(console, self.host_data, name, mount)

    def prove_back_ends(self, *, hot: bool = False) -> None:
        """virtiofs, a disk of qemu-storage-daemon and a vsock in Python, all vhost-user.

        What the vsock's back-end accessed is compared with the memory that the guest shares.
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
            with self.booted_with(devices, modules, hot=hot, **options) as machine:
                self.prove_virtiofs(machine)
                self.prove_disk(machine)
                io_checks.find(machine.console, VSOCK)
                traffic.over_vsock(machine.console, host)
                self.assertGreater(len(behind.touched), 100)
                private = confidential.private_touched(behind, Shared.of(machine))
                self.assertEqual(private, [])

    def prove_virtiofs_comes_and_goes(self) -> None:
        """Plug virtiofs, write 64 MiB, unplug, and again with a new virtiofsd; read a disk."""
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
        """Reboot by the guest and by system_reset in turn; it is confidential each time."""
        disk, blockdevs = self.disk
        with self.booted([disk], BLOCK_MODULES, cpus=2, blockdevs=blockdevs) as machine:
            for turn in range(times):
                if turn % 2:
                    machine.qmp.execute("system_reset")
                else:
                    machine.console.send("reboot -f")
                machine.boot()
                self.log.info(confidential.prove(machine, self.kind))
            self.prove_disk(machine)

    def prove_kernel(self, guest: str) -> None:
        """Another kernel boots confidential, reads and writes a disk and mounts virtiofs."""
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
        """The guest's driver refuses a device without ACCESS_PLATFORM."""
        bare = self.device("virtio-rng", iommu_platform=False)
        with self.booted([bare], ["virtio_rng"]) as machine:
            said = machine.console.check("dmesg | grep 'must provide'")
            self.assertIn(NO_ACCESS_PLATFORM, said)
            machine.console.check("! grep -q virtio /sys/class/misc/hw_random/rng_available")

    def prove_enforcement(self) -> None:
        """A guest that shares only its rings gets no data, and an event names the device.

        It waits for the partition table, so it never finishes its boot.
        """
        disk, blockdevs = self.disk
        spec = self.spec([disk], BLOCK_MODULES, append=SHARES_TOO_LITTLE, blockdevs=blockdevs)
        with self.started(spec) as machine:
            seen = machine.qmp.wait_event(VIOLATION, lambda data: True, BOOTED_S)
            self.assertEqual((seen["device"], seen["action"]), ("disk0", "error"))

    def prove_report(self) -> None:
        """If violations are only reported, such a guest goes on, and its data are right."""
        disk, blockdevs = self.disk
        spec = self.spec([disk], BLOCK_MODULES, append=SHARES_TOO_LITTLE, blockdevs=blockdevs)
        with self.started(spec, "report") as machine:
            machine.boot()
            image = hashlib.sha256(self.host_data.image.read_bytes()).hexdigest()
            printed = machine.console.check("dd if=/dev/vda bs=1M 2>/dev/null | sha256sum")
            self.assertEqual(printed.split()[0], image)
            reads, writes = Shared.of(machine).violations["disk0"]
            self.assertGreater(reads, 0)
            self.assertGreater(writes, 0)
