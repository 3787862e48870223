"""x86 firmware as a driver of devices with iommu_platform=on: features and service.

SeaBIOS and iPXE are those of the distribution. They boot a sector that prints a line and stops,
so that the device is as the firmware's driver left it. For s390x see ipl_ccw.py.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine.device import Device
from qap.machine.guest.boot_sector import boot_sector
from qap.machine.machine import OUTPUT_LINES, Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest

BOOTED_S = 60.0
GIVEN_UP_S = 60.0
DISK_SIZE = 1 << 20
MODERN_MMIO = ("-global", "virtio-mmio.force-legacy=false")
# Firmware with nothing to boot resets the machine; with these options it pauses then.
GIVES_UP = ("-boot", "reboot-timeout=0", "-action", "reboot=shutdown,shutdown=pause")


class Firmware(GuestTest):
    """A machine that boots without -kernel.

    :avocado: disable
    """

    machine_type = "q35"
    bios = "bios-256k.bin"
    extra: Sequence[str] = ()

    def setUp(self) -> None:
        self.build = Build.under_test()
        scratch = tempfile.TemporaryDirectory(prefix="qap-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    @cached_property
    def disk(self) -> str:
        target = self.folder / "disk.img"
        target.write_bytes(boot_sector())
        os.truncate(target, DISK_SIZE)
        return f"file,node-name=disk,filename={target},read-only=on"

    @cached_property
    def network(self) -> str:
        (self.folder / "sector").write_bytes(boot_sector())
        return f"user,id=net,tftp={self.folder},bootfile=sector"

    def installed(self, name: str, maker: str) -> Path:
        """Firmware of the distribution; a file of another maker may have the same name."""
        folders = [Path(folder) for folder in self.build.settings.firmwarepath]
        paths = [folder / name for folder in folders if (folder / name).exists()]
        images = [path for path in paths if maker.encode() in path.read_bytes()]
        if not images:
            self.cancel(f"no {name} of {maker} is in {', '.join(map(str, folders))}")
        return images[0]

    @contextmanager
    def machine(self, *devices: Device, extra: Sequence[str] = ()) -> Iterator[Machine]:
        """A paused machine. Errors and timeouts of QEMU fail the test."""
        words = ["-bios", str(self.installed(self.bios, "SeaBIOS")), *self.extra, *GIVES_UP, *extra]
        spec = Spec(
            machine=self.machine_type,
            memory=128,
            blockdevs=[] if extra else [self.disk],
            devices=devices,
            # An event that comes before the monitor is ready would be lost.
            extra=["-S", "-d", "guest_errors", *words],
        )
        try:
            with Machine(self.build.path("qemu-system-x86_64"), spec) as machine:
                yield machine
        except (QapError, TimeoutError) as exc:
            self.fail("\n".join([str(exc), getattr(exc, "detail", "")]))

    def check_boots(self, *devices: Device, extra: Sequence[str] = ()) -> None:
        """It boots, and the first device's driver accepts the bit if and only if it is offered."""
        with self.machine(*devices, extra=extra) as machine:
            machine.qmp.execute("cont")
            machine.console.wait_ready(BOOTED_S)
            (path,) = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
            status = machine.qmp.execute("x-query-virtio-status", path=path)
            accepted = [line.partition(":")[0] for line in status["guest-features"]["transports"]]
            self.log.info("%s: accepted %s, %s", self.name.name, accepted, status["status"])
            wanted = any(device.get("iommu_platform") for device in devices)
            self.assertEqual("VIRTIO_F_IOMMU_PLATFORM" in accepted, wanted)
            self.assertIn("VIRTIO_F_VERSION_1", accepted)

    def check_gives_up(self, device: Device) -> str:
        """It boots nothing and has read nothing; returns the output of QEMU."""
        with self.machine(device) as machine:
            machine.qmp.execute("cont")
            machine.qmp.wait_event("SHUTDOWN", lambda data: bool(data["guest"]), GIVEN_UP_S)
            (disk,) = machine.qmp.execute("query-blockstats")
            self.assertEqual(disk["stats"]["rd_operations"], 0)
            return machine.process.tail(OUTPUT_LINES)


class SeabiosPci(Firmware):
    """SeaBIOS accepts ACCESS_PLATFORM for every PCI device and is served.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,firmware:seabios
    """

    def test_disk(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        for platform in (True, False):
            self.check_boots(blk(platform=platform))

    def test_disk_of_a_controller(self) -> None:
        """:avocado: tags=device:virtio-scsi-pci"""
        for platform in (True, False):
            self.check_boots(
                {"driver": "virtio-scsi-pci", "disable-legacy": "on", "iommu_platform": platform},
                {"driver": "scsi-hd", "drive": "disk"},
            )

    def test_disk_behind_an_iommu(self) -> None:
        """SeaBIOS does not program the IOMMU, which then maps every address to itself.

        :avocado: tags=device:virtio-blk-pci,viommu
        """
        self.check_boots({"driver": "intel-iommu"}, blk(platform=True))


class SeabiosMmio(Firmware):
    """On MMIO SeaBIOS accepts ACCESS_PLATFORM for a SCSI controller, but not for a disk.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:microvm,firmware:seabios
    """

    machine_type = "microvm"
    bios = "bios-microvm.bin"
    extra = MODERN_MMIO

    def test_disk_is_fenced(self) -> None:
        """Its driver is refused at FEATURES_OK and gives up.

        :avocado: tags=device:virtio-blk-device
        """
        device = {"driver": "virtio-blk-device", "drive": "disk", "iommu_platform": True}
        said = self.check_gives_up(device)
        self.assertIn("did not accept VIRTIO_F_ACCESS_PLATFORM and is not served", said)

    def test_disk_without_the_bit(self) -> None:
        """:avocado: tags=device:virtio-blk-device"""
        self.check_boots({"driver": "virtio-blk-device", "drive": "disk"})

    def test_disk_of_a_controller(self) -> None:
        """Its driver accepts the bit, but never sets FEATURES_OK; it is served.

        :avocado: tags=device:virtio-scsi-device
        """
        for platform in (True, False):
            self.check_boots(
                {"driver": "virtio-scsi-device", "iommu_platform": platform},
                {"driver": "scsi-hd", "drive": "disk"},
            )


class Ipxe(Firmware):
    """iPXE accepts ACCESS_PLATFORM for its network card and is served.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,firmware:ipxe
    """

    def test_network(self) -> None:
        """:avocado: tags=device:virtio-net-pci"""
        card = {"driver": "virtio-net-pci", "netdev": "net", "disable-legacy": "on"}
        card |= {"romfile": str(self.installed("pxe-virtio.rom", "iPXE")), "bootindex": "1"}
        for platform in (True, False):
            device = {**card, "iommu_platform": platform}
            self.check_boots(device, extra=("-netdev", self.network))


def blk(*, platform: bool) -> Device:
    """The disk on PCI, with only a modern interface."""
    modern = {"disable-legacy": "on", "iommu_platform": platform}
    return {"driver": "virtio-blk-pci", "drive": "disk", **modern}
