"""x86 firmware as a driver of devices with iommu_platform=on: features and service.

SeaBIOS, iPXE and OVMF are those of the distribution. SeaBIOS and iPXE boot a sector that prints a
line and stops, so that the device is as the firmware's driver left it. OVMF tries all that it
finds, and the ring tells. For s390x see ipl_ccw.py.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import MissingError, QapError
from qap.host.wait import poll_until
from qap.machine.device import Device
from qap.machine.guest import ovmf
from qap.machine.guest.boot_sector import boot_sector
from qap.machine.machine import OUTPUT_LINES, Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest
from qap.vhost_user.programs import BackendProcess, storage_daemon, virtiofsd

BOOTED_S = 60.0
DRIVEN_S = 60.0
# 5.6.2 and 5.11.2: the first queue for requests.
SCSI_REQUESTS = 2
FS_REQUESTS = 1
GIVEN_UP_S = 60.0
DISK_SIZE = 1 << 20
MODERN_MMIO = ("-global", "virtio-mmio.force-legacy=false")
# SeaBIOS's words once it has looked for disks, and where it did not wait for one to be ready.
PROBED, GAVE_UP = "All threads complete", "scsi_is_ready returned -1"
TRIES = 4
# Firmware with nothing to boot resets the machine; with these options it pauses then.
GIVES_UP = ("-boot", "reboot-timeout=0", "-action", "reboot=shutdown,shutdown=pause")


class Firmware(GuestTest):
    """A machine that boots without -kernel.

    :avocado: disable
    """

    machine_type = "q35"
    memory = 128
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

    def firmware(self) -> list[str]:
        """Options for the firmware, and for what it does at its end."""
        return ["-bios", str(self.installed(self.bios, "SeaBIOS")), *self.extra, *GIVES_UP]

    @contextmanager
    def machine(
        self, *devices: Device, extra: Sequence[str] = (), chardevs: Sequence[str] = ()
    ) -> Iterator[Machine]:
        """A paused machine. Errors and timeouts of QEMU fail the test."""
        spec = Spec(
            machine=self.machine_type,
            memory=self.memory,
            blockdevs=[] if extra else [self.disk],
            devices=devices,
            chardevs=chardevs,
            # An event that comes before the monitor is ready would be lost.
            extra=["-S", "-d", "guest_errors", *self.firmware(), *extra],
        )
        try:
            with Machine(self.build.path("qemu-system-x86_64"), spec) as machine:
                yield machine
        except (QapError, TimeoutError) as exc:
            self.fail("\n".join([str(exc), getattr(exc, "detail", "")]))

    def check_boots(self, *devices: Device, extra: Sequence[str] = ()) -> None:
        """It boots, and the first device's driver accepts the bit if and only if it is offered."""
        for _ in range(TRIES):
            with self.machine(*devices, extra=extra) as machine:
                machine.qmp.execute("cont")
                if not self.waits_for_disks(machine):
                    continue
                machine.console.wait_ready(BOOTED_S)
                wanted = any(device.get("iommu_platform") for device in devices)
                self.check_accepted(machine, platform=wanted)
                return
        self.fail(f"in {TRIES} boots the firmware did not wait until its disk was ready")

    def waits_for_disks(self, machine: Machine) -> bool:
        """Whether the firmware's timeouts are as long as it means them to be."""
        return True

    def check_accepted(self, machine: Machine, *, platform: bool) -> None:
        """The driver of the device under test accepted VERSION_1, and ACCESS_PLATFORM or not."""
        status = machine.qmp.execute("x-query-virtio-status", path=device_path(machine))
        accepted = [line.partition(":")[0] for line in status["guest-features"]["transports"]]
        self.log.info("%s: accepted %s, %s", self.name.name, accepted, status["status"])
        self.assertEqual("VIRTIO_F_IOMMU_PLATFORM" in accepted, platform)
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
            self.check_boots(*scsi(platform=platform))

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

    @property
    def said(self) -> Path:
        """What SeaBIOS writes to its debug port."""
        return self.folder / "seabios.log"

    def firmware(self) -> list[str]:
        port = ["-device", "isa-debugcon,iobase=0x402,chardev=seabios"]
        return [*super().firmware(), "-chardev", f"file,id=seabios,path={self.said}", *port]

    def waits_for_disks(self, machine: Machine) -> bool:
        """Without a PM timer, SeaBIOS takes the TSC for a hundred times slower than it is.

        So it waits 50 ms for a disk instead of 5 s, and gives up where the host is busy.
        """

        def probed() -> str | None:
            machine.qmp.execute("query-status")
            said = self.said.read_text(errors="replace")
            return said if PROBED in said else None

        return GAVE_UP not in poll_until(probed, DRIVEN_S, lambda: "SeaBIOS to look for disks")

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


class Ovmf(Firmware):
    """OVMF accepts ACCESS_PLATFORM on PCI and is served.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,firmware:ovmf
    """

    memory = 256

    def firmware(self) -> list[str]:
        try:
            return ovmf.Ovmf.LARGE.options
        except MissingError as missing:
            self.cancel(str(missing))
            raise

    def check_served(
        self, queue: int, *devices: Device, service: BackendProcess | None = None
    ) -> None:
        """The driver accepts the bit, and the device has used a buffer of this queue.

        Args:
            service: a back-end, for the device whose chardev is "backend".
        """
        chardevs = [f"socket,id=backend,path={service.socket}"] if service else []
        with self.machine(*devices, chardevs=chardevs) as machine:
            machine.qmp.execute("cont")
            path = device_path(machine)
            poll_until(
                lambda: used(machine, path, queue, vhost=service is not None) or None,
                DRIVEN_S,
                lambda: f"OVMF's driver to be served in queue {queue} of {path}",
            )
            self.check_accepted(machine, platform=True)

    def test_disk(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        self.check_served(0, blk(platform=True))

    def test_disk_behind_vtd(self) -> None:
        """OVMF does not program the IOMMU, which then maps every address to itself.

        :avocado: tags=device:virtio-blk-pci,viommu
        """
        self.check_served(0, {"driver": "intel-iommu"}, blk(platform=True))

    def test_disk_of_a_controller_behind_virtio_iommu(self) -> None:
        """:avocado: tags=device:virtio-scsi-pci,viommu"""
        viommu = {"driver": "virtio-iommu-pci", "id": "viommu", "addr": "0x1e"}
        self.check_served(SCSI_REQUESTS, viommu, *scsi(platform=True))

    def test_disk_of_a_back_end(self) -> None:
        """:avocado: tags=device:vhost-user-blk-pci"""
        program = self.build.path("qemu-storage-daemon")
        device = {"driver": "vhost-user-blk-pci", "chardev": "backend", "disable-legacy": "on"}
        with storage_daemon(self.folder, program, None, "disk") as service:
            self.check_served(0, {**device, "iommu_platform": True}, service=service)

    def test_file_system(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci"""
        shared = self.folder / "shared"
        shared.mkdir()
        device = {"driver": "vhost-user-fs-pci", "chardev": "backend", "tag": "share"}
        with virtiofsd(self.folder, shared, "amd64", "files") as service:
            self.check_served(FS_REQUESTS, {**device, "iommu_platform": True}, service=service)


def device_path(machine: Machine) -> str:
    """The QOM path of the only virtio device that is no IOMMU."""
    paths: list[str] = [device["path"] for device in machine.qmp.execute("x-query-virtio")]
    (path,) = [path for path in paths if "viommu" not in path]
    return path


def used(machine: Machine, path: str, queue: int, *, vhost: bool) -> int:
    """How many buffers of a queue the device has used; 0 while there is no driver.

    Args:
        vhost: a back-end counts them, in guest memory.
    """
    status = machine.qmp.execute("x-query-virtio-status", path=path)
    if not any("DRIVER_OK" in text for text in status["status"]["statuses"]):
        return 0
    if not vhost:
        index: int = machine.qmp.execute("x-query-virtio-queue-status", path=path, queue=queue)[
            "used-idx"
        ]
        return index
    if not status["vhost-started"]:
        return 0
    ring = machine.qmp.execute("x-query-virtio-vhost-queue-status", path=path, queue=queue)
    # 2.7.8: the index follows 16 bits of flags.
    said = machine.qmp.hmp(f"xp /1hx {ring['used-phys'] + 2:#x}")
    return int(said.split(":")[1], 16)


def scsi(*, platform: bool) -> tuple[Device, Device]:
    """The disk behind a SCSI controller on PCI."""
    modern = {"disable-legacy": "on", "iommu_platform": platform}
    return {"driver": "virtio-scsi-pci", **modern}, {"driver": "scsi-hd", "drive": "disk"}


def blk(*, platform: bool) -> Device:
    """The disk on PCI, with only a modern interface."""
    modern = {"disable-legacy": "on", "iommu_platform": platform}
    return {"driver": "virtio-blk-pci", "drive": "disk", **modern}
