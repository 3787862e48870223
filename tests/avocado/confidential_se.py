"""Simulated Secure Execution guests: unmodified kernels, CCW devices, private memory."""

import hashlib
import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from qap import confidential, config
from qap.acceptance import GuestTest
from qap.confidential import VIOLATION, Shared
from qap.machine import Boot, Machine, Spec
from qap.under_test import build_under_test

MIB = 1 << 20
MODULES = ("virtio_blk", "virtio_rng", "virtio_net", "virtio_console", "9p", "9pnet_virtio")


class ConfidentialScenarios(GuestTest):
    """One device in a protected guest, which uses it; no device meets private memory.

    :avocado: enable
    :avocado: tags=confidential,arch:s390x,machine:s390-ccw-virtio
    """

    def test_blk_cold(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw"""
        self.check(guest="s390x", device="virtio-blk", plug="cold", confidential=True)

    def test_blk_hot(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw,hotplug"""
        self.check(guest="s390x", device="virtio-blk", plug="replug", confidential=True)

    def test_rng_cold(self) -> None:
        """:avocado: tags=device:virtio-rng-ccw"""
        self.check(guest="s390x", device="virtio-rng", plug="cold", confidential=True)

    def test_virtiofs_cold(self) -> None:
        """:avocado: tags=device:vhost-user-fs-ccw"""
        self.check(guest="s390x", device="vhost-user-fs", plug="cold", confidential=True)

    def test_virtiofs_hot(self) -> None:
        """:avocado: tags=device:vhost-user-fs-ccw,hotplug"""
        self.check(guest="s390x", device="vhost-user-fs", plug="replug", confidential=True)

    def test_vhost_user_blk_cold(self) -> None:
        """:avocado: tags=device:vhost-user-blk-ccw"""
        self.check(guest="s390x", device="vhost-user-blk", plug="cold", confidential=True)

    def test_vhost_user_blk_hot(self) -> None:
        """:avocado: tags=device:vhost-user-blk-ccw,hotplug"""
        self.check(guest="s390x", device="vhost-user-blk", plug="replug", confidential=True)


class ConfidentialSe(GuestTest):
    """What a scenario has no words for.

    :avocado: enable
    :avocado: tags=confidential,arch:s390x,machine:s390-ccw-virtio
    """

    def setUp(self) -> None:
        self.owned = ExitStack()
        self.folder = Path(self.owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
        self.disk = self.folder / "disk.img"
        self.disk.write_bytes(os.urandom(16 * MIB))

    def tearDown(self) -> None:
        self.owned.close()

    def boot(
        self,
        *devices: dict[str, object],
        append: str = "",
        on_violation: str = "error",
        extra: tuple[str, ...] = (),
        comes_up: bool = True,
    ) -> Machine:
        """A guest with a disk and these devices, up and running unless it can't be."""
        guest = config.guest("s390x")
        spec = Spec(
            guest.machine,
            cpu=guest.cpu,
            memory=guest.memory,
            blockdevs=[f"driver=file,node-name=disk,filename={self.disk}"],
            devices=[{"driver": "virtio-blk-ccw", "id": "disk0", "drive": "disk"}, *devices],
            boot=Boot(guest, MODULES, append),
            extra=extra,
        )
        machine = Machine(
            build_under_test().path("qemu-system-s390x"),
            confidential.simulated(spec, on_violation),
            log=self.folder / "qemu.log",
        )
        self.owned.enter_context(machine)
        if comes_up:
            machine.boot()
        return machine

    def test_every_device_at_once(self) -> None:
        """Disk, net, random numbers, serial and 9p with two CPUs, data checked both ways."""
        shared, line = self.folder / "shared", self.folder / "line"
        shared.mkdir()
        (shared / "from-host").write_bytes(os.urandom(MIB))
        machine = self.boot(
            {"driver": "virtio-net-ccw", "netdev": "net0"},
            {"driver": "virtio-rng-ccw"},
            {"driver": "virtio-serial-ccw", "id": "serial0"},
            {"driver": "virtserialport", "chardev": "line", "name": "line"},
            {"driver": "virtio-9p-ccw", "fsdev": "fs", "mount_tag": "share"},
            extra=(
                *("-smp", "2"),
                *("-netdev", "user,id=net0,guestfwd=tcp:10.0.2.100:7-cmd:cat"),
                *("-chardev", f"socket,id=line,path={line},server=on,wait=off"),
                *("-fsdev", f"local,id=fs,path={shared},security_model=none"),
            ),
        )
        said = machine.console.check
        found = said("dd if=/dev/vda bs=1M 2>/dev/null | sha256sum").split()[0]
        self.assertEqual(found, hashlib.sha256(self.disk.read_bytes()).hexdigest())
        said("dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null")
        wrote = said("sha256sum </tmp/data").split()[0]

        said("mkdir -p /mnt/9p && mount -t 9p -o trans=virtio,version=9p2000.L share /mnt/9p")
        found = said("sha256sum </mnt/9p/from-host").split()[0]
        self.assertEqual(found, hashlib.sha256((shared / "from-host").read_bytes()).hexdigest())
        said("cp /tmp/data /mnt/9p/from-guest && sync")
        written = (shared / "from-guest").read_bytes()
        self.assertEqual(hashlib.sha256(written).hexdigest(), wrote)

        said("ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
        echoed = said("nc -w 10 10.0.2.100 7 </tmp/data | sha256sum", timeout=90).split()[0]
        self.assertEqual(echoed, wrote)

        with socket.socket(socket.AF_UNIX) as host:
            host.connect(str(line))
            host.settimeout(30)
            said(
                "name=$(grep -lx line /sys/class/virtio-ports/*/name); "
                "exec 3<>/dev/$(basename $(dirname $name)); "
                "(read -r word <&3; echo got $word >&3) &"
            )
            host.sendall(b"sesame\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += host.recv(64)
            self.assertEqual(answer, b"got sesame\n")

        said("grep -q virtio /sys/class/misc/hw_random/rng_available")
        said("dd if=/dev/hwrng of=/dev/null bs=64 count=1")
        confidential.prove(machine, "s390x")

    def test_reboots_come_up_protected(self) -> None:
        """Three times by itself, three times by system_reset."""
        machine = self.boot()
        for way in range(6):
            confidential.prove(machine, "s390x")
            if way % 2:
                machine.qmp.execute("system_reset")
            else:
                machine.console.send("reboot -f")
            machine.boot()
        confidential.prove(machine, "s390x")

    def test_guest_that_shares_too_little_is_stopped(self) -> None:
        """A kernel told not to bounce its buffers shares its rings alone.

        It waits for the partition table for ever, and so never comes up.
        """
        machine = self.boot(append="swiotlb=noforce", comes_up=False)
        seen = machine.qmp.wait_event(VIOLATION, lambda data: True, 30)
        self.assertEqual((seen["device"], seen["action"]), ("disk0", "error"))

    def test_such_a_guest_goes_on_where_violations_are_reported(self) -> None:
        """And its data are right."""
        machine = self.boot(append="swiotlb=noforce", on_violation="report")
        found = machine.console.check("dd if=/dev/vda bs=1M 2>/dev/null | sha256sum").split()[0]
        self.assertEqual(found, hashlib.sha256(self.disk.read_bytes()).hexdigest())
        reads, writes = Shared.of(machine).violations["disk0"]
        self.assertGreater(reads, 0)
        self.assertGreater(writes, 0)

    def test_device_without_access_platform_is_left_alone(self) -> None:
        """The guest's driver refuses it, and says why."""
        machine = self.boot({"driver": "virtio-rng-ccw", "iommu_platform": False})
        said = machine.console.check("dmesg | grep -i virtio")
        self.assertIn("device must provide VIRTIO_F_ACCESS_PLATFORM", said)
