"""Unmodified kernels as AMD SEV guests, simulated under TCG, and their virtio devices."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qap import confidential, config, workload
from qap.acceptance import GuestTest
from qap.elf import segments
from qap.guest import traffic
from qap.machine import Boot, Device, Machine, Spec
from qap.scenario import machine_types
from qap.under_test import build_under_test
from qap.vhost_user import real
from qap.vhost_user.real import Service

BLOCK, RNG, NINEP, FS = 2, 4, 9, 26
NO_ACCESS_PLATFORM = "device must provide VIRTIO_F_ACCESS_PLATFORM"
BOUNCES = "PCI-DMA: Using software bounce buffering for IO (SWIOTLB)"


class SevTest(GuestTest):
    """Boots an SEV guest, and looks at the machine's record of violations at the end.

    :avocado: disable
    """

    def setUp(self) -> None:
        self.build = build_under_test()
        scratch = tempfile.TemporaryDirectory(prefix="qap-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.stuff = workload.Stuff(self.folder)
        self.stuff.prepare()

    @contextmanager
    def booted(
        self,
        devices: Sequence[Device] = (),
        modules: Sequence[str] = (),
        machine: str = "q35",
        cpus: int = 1,
        **spec: Any,
    ) -> Iterator[Machine]:
        """A machine whose guest has booted, takes itself for an SEV guest, and bounces.

        At the end the record of violations must be empty.
        """
        guest, place = config.guest("x86_64"), machine_types()[machine]
        packaged = spec.pop("packaged", False)
        plain = Spec(
            place.name,
            cpu=spec.pop("cpu", guest.cpu),
            memory=guest.memory,
            devices=[*([dict(place.port)] if place.port else []), *devices],
            boot=Boot(guest, tuple(modules), packaged=packaged),
            extra=["-smp", str(cpus), *spec.pop("extra", ())],
            **spec,
        )
        binary = self.build.path("qemu-system-x86_64")
        with Machine(binary, confidential.simulated(plain)) as vm:
            start = time.monotonic()
            vm.boot()
            self.log.info("booted in %.1f s", time.monotonic() - start)
            vm.console.check(f"dmesg | grep -q '{BOUNCES}'")
            self.assertEqual(vm.console.check("grep -c ^processor /proc/cpuinfo"), str(cpus))
            yield vm
            self.log.info(confidential.prove(vm, guest.qemu))

    @property
    def disk(self) -> tuple[Device, list[str]]:
        """A disk in QEMU, and the block device behind it."""
        node = f"driver=file,node-name=disk,filename={self.stuff.image}"
        return {"driver": "virtio-blk-pci", "drive": "disk"}, [node]

    def prove_disk(self, machine: Machine) -> None:
        """Find a disk in the guest, and read and write it."""
        name = workload.find(machine.console, BLOCK)
        self.log.info(workload.disk(machine.console, self.stuff, name))


class ConfidentialSev(SevTest):
    """The guest itself.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,confidential,device:virtio-blk-pci
    """

    def boots(self, **guest: Any) -> None:
        """Such a guest boots, says that it is one, and reads and writes a disk."""
        device, blockdevs = self.disk
        with self.booted([device], ["virtio_blk"], blockdevs=blockdevs, **guest) as machine:
            self.prove_disk(machine)

    def test_boots(self) -> None:
        self.boots()

    def test_smp(self) -> None:
        self.boots(cpus=2)

    def test_five_levels(self) -> None:
        """A kernel that decompresses itself turns on 5-level paging on its way."""
        device, blockdevs = self.disk
        how: dict[str, Any] = {"cpus": 2, "packaged": True, "blockdevs": blockdevs}
        with self.booted([device], ["virtio_blk"], **how) as machine:
            machine.console.check("grep -qw la57 /proc/cpuinfo")
            self.prove_disk(machine)

    def test_pc(self) -> None:
        """:avocado: tags=machine:pc"""
        self.boots(machine="pc", cpus=2)

    def test_epyc(self) -> None:
        self.boots(cpu="EPYC-Rome")

    def test_reboots(self) -> None:
        """Ten times, by turns from outside and by itself; protected each time."""
        device, blockdevs = self.disk
        with self.booted([device], ["virtio_blk"], cpus=2, blockdevs=blockdevs) as machine:
            for turn in range(10):
                if turn % 2:
                    machine.qmp.execute("system_reset")
                else:
                    machine.console.send("reboot -f")
                machine.boot()
                confidential.prove(machine, "x86_64")
            self.prove_disk(machine)

    def test_debuggers_see_through_the_c_bit(self) -> None:
        """A virtual address leads the monitor and a dump to the same bytes as the guest."""
        with self.booted() as machine:
            symbols = machine.console.check("grep -w linux_banner /proc/kallsyms")
            address = int(symbols.split()[0], 16)
            banner = machine.console.check("cat /proc/version").encode()
            saved = self.folder / "saved"
            machine.qmp.execute("memsave", val=address, size=512, filename=str(saved))
            self.assertTrue(saved.read_bytes().startswith(b"Linux version "))
            self.assertTrue(saved.read_bytes().startswith(banner[:40]))
            physical = machine.qmp.hmp(f"gva2gpa {address:#x}")
            self.assertRegex(physical, r"^gpa: 0x[0-9a-f]{1,8}\s*$")
            lines = machine.qmp.hmp("info mem").splitlines()
            ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
            self.assertTrue(any(start <= address < end for start, end in ranges))
            page = f"{address & ~0x1FFFFF:016x}: {int(physical.split()[1], 16) & ~0x1FFFFF:016x}"
            self.assertIn(page, machine.qmp.hmp("info tlb"))
            dump = self.folder / "dump"
            machine.qmp.execute("dump-guest-memory", paging=True, protocol=f"file:{dump}")
            found = [
                one.physical + address - one.virtual
                for one in segments(dump)
                if one.virtual <= address < one.virtual + one.size
            ]
            self.assertEqual(found, [int(physical.split()[1], 16)])


class ConfidentialSevDevices(SevTest):
    """Each device serves, with data compared on both sides and no violation.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,confidential
    """

    def test_net(self) -> None:
        """:avocado: tags=device:virtio-net-pci"""
        net = {"driver": "virtio-net-pci", "netdev": "net"}
        with self.booted([net], ["virtio_net"], extra=["-netdev", "user,id=net"]) as machine:
            traffic.over_network(machine.console)

    def test_rng(self) -> None:
        """:avocado: tags=device:virtio-rng-pci"""
        with self.booted([{"driver": "virtio-rng-pci"}], ["virtio_rng"]) as machine:
            name = workload.find(machine.console, RNG)
            workload.random(machine.console, self.stuff, name)

    def test_serial(self) -> None:
        """:avocado: tags=device:virtio-serial-pci"""
        path = self.folder / "port.sock"
        serial = [
            {"driver": "virtio-serial-pci"},
            {"driver": "virtserialport", "chardev": "port", "name": "port"},
        ]
        chardev = f"socket,id=port,path={path},server=on,wait=off"
        with self.booted(serial, ["virtio_console"], chardevs=[chardev]) as machine:
            traffic.over_serial(machine.console, path)

    def test_ninep(self) -> None:
        """:avocado: tags=device:virtio-9p-pci"""
        share = {"driver": "virtio-9p-pci", "fsdev": "share", "mount_tag": "share"}
        fsdev = f"local,id=share,path={self.stuff.shared},security_model=none"
        modules = ["9p", "9pnet_virtio"]
        with self.booted([share], modules, extra=["-fsdev", fsdev]) as machine:
            name = workload.find(machine.console, NINEP)
            mount = "-t 9p -o trans=virtio,version=9p2000.L share"
            workload.files(machine.console, self.stuff, name, mount)

    def test_vhost_user_blk(self) -> None:
        """:avocado: tags=device:vhost-user-blk-pci"""
        program = self.build.path("qemu-storage-daemon")
        device: Device = {"driver": "vhost-user-blk-pci", "chardev": "disk"}
        with real.storage_daemon(self.folder, program, self.stuff.image, "disk") as service:
            chardev = f"socket,id=disk,path={service.socket}"
            with self.booted([device], ["virtio_blk"], chardevs=[chardev]) as machine:
                self.prove_disk(machine)

    def test_without_iommu_platform(self) -> None:
        """The guest's own driver refuses a device that could not reach what it shares."""
        device, blockdevs = self.disk
        bare = {**device, "iommu_platform": False}
        with self.booted([bare], ["virtio_blk"], blockdevs=blockdevs) as machine:
            console = machine.console
            console.check("test ! -e /sys/block/vda")
            said = console.check("dmesg | grep 'must provide'")
            self.assertIn(NO_ACCESS_PLATFORM, said)


class ConfidentialSevFs(SevTest):
    """virtiofs with the real virtiofsd, which knows nothing of ACCESS_PLATFORM.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,confidential,device:vhost-user-fs-pci
    """

    def daemon(self, name: str) -> Any:
        return real.virtiofsd(self.folder, self.stuff.shared, "amd64", name)

    def test_cold(self) -> None:
        with self.daemon("fs") as service:
            chardev = f"socket,id=fs,path={service.socket}"
            device = {"driver": "vhost-user-fs-pci", "chardev": "fs", "tag": "share"}
            with self.booted([device], ["virtiofs"], chardevs=[chardev]) as machine:
                name = workload.find(machine.console, FS)
                workload.files(machine.console, self.stuff, name)

    def test_hot(self) -> None:
        """In, 64 MiB, out, and in again with a fresh virtiofsd, while a disk is read.

        :avocado: tags=hotplug
        """
        device, blockdevs = self.disk
        modules = ["virtio_blk", "virtiofs"]
        with self.booted([device], modules, cpus=2, blockdevs=blockdevs) as machine:
            console = machine.console
            disk = workload.find(console, BLOCK)
            node = console.check(f"ls /sys/bus/virtio/devices/{disk}/block")
            reading = (
                f"while dd if=/dev/{node} of=/dev/null bs=64k iflag=direct 2>/dev/null; "
                "do echo x >>/tmp/rounds; done"
            )
            console.check(f"({reading}; echo failed >/tmp/failed) </dev/null >/dev/null 2>&1 &")
            for turn in ("first", "second"):
                with self.daemon(turn) as service:
                    self.plugged(machine, service, turn)
            console.check("test ! -e /tmp/failed")
            rounds = int(console.check("wc -l </tmp/rounds"))
            self.log.info("the disk was read %d times meanwhile", rounds)
            self.assertGreater(rounds, 1)

    def plugged(self, machine: Machine, service: Service, name: str) -> None:
        """Plug, mount, exchange files and 64 MiB, unmount and unplug."""
        slot = machine_types()["q35"].place
        machine.add_socket(name, service.socket)
        machine.plug(
            {"driver": "vhost-user-fs-pci", "id": "fs", "chardev": name, "tag": "share", **slot}
        )
        console = machine.console
        found = workload.find(console, FS)
        workload.files(console, self.stuff, found)
        self.log.info(workload.large_file(console, self.stuff, 64))
        machine.unplug("fs")
        machine.qmp.execute("chardev-remove", id=name)
