"""The machine's firmware boots (IPLs) from devices that have iommu_platform=on.

"Packaged" is the distribution's firmware, which drives virtio at revision 0 and can't accept
ACCESS_PLATFORM. "Ours" is that of the build under test, or the file in QAP_S390_CCW.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine import catalog
from qap.machine.device import Device
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.guest.console import GuestLost
from qap.machine.guest.ipl_disk import ipl_image, write_ipl_disk
from qap.machine.machine import OUTPUT_LINES, Machine
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit
from qap.verify.kit.guest_test import GuestTest

FIRMWARE = "s390-ccw.img"
VARIABLE = "QAP_S390_CCW"
NET, BLOCK, SCSI = 1, 2, 8
MODULES = ("virtio_blk", "virtio_net", "virtio_scsi")
HALT_S = 60.0
FENCED = {"iommu_platform": True, "x-fence-revision-0": True}
UNFENCED = {"iommu_platform": True, "x-fence-revision-0": False}
REVISION_0 = {"max_revision": 0}


class IplCcw(GuestTest):
    """An s390x machine without -kernel: it runs what the firmware has read.

    :avocado: enable
    :avocado: tags=arch:s390x,machine:s390-ccw-virtio,device:virtio-blk-ccw,firmware:s390-ccw
    """

    def setUp(self) -> None:
        self.build = Build.under_test()
        self.guest = catalog.guest("s390x")
        scratch = tempfile.TemporaryDirectory(prefix="qap-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    @cached_property
    def ours(self) -> Path:
        named = os.environ.get(VARIABLE)
        path = Path(named) if named else self.build.folder / "pc-bios/s390-ccw" / FIRMWARE
        if not path.exists():
            self.cancel(f"{path} is not built, nor does {VARIABLE} name another")
        return path

    @cached_property
    def packaged(self) -> Path:
        places = [Path(folder) / FIRMWARE for folder in self.build.settings.firmwarepath]
        installed = [path for path in places if path.exists()]
        if not installed:
            self.cancel(f"no {FIRMWARE} is installed: qemu-system-data has it")
        return installed[0]

    @cached_property
    def image(self) -> bytes:
        """The boot image: Debian's kernel with the /init that answers on the console."""
        boot = Boot(self.guest, MODULES)
        images = boot.bring()
        return ipl_image(images.kernel.read_bytes(), images.initrd.read_bytes(), boot.words)

    @cached_property
    def disk(self) -> str:
        target = self.folder / "boot.iso"
        write_ipl_disk(target, self.image)
        return f"file,node-name=disk,filename={target},read-only=on"

    @cached_property
    def empty(self) -> str:
        target = self.folder / "empty.img"
        target.touch()
        os.truncate(target, 1 << 20)
        return f"file,node-name=empty,filename={target},read-only=on"

    @contextmanager
    def machine(
        self,
        firmware: Path,
        devices: Sequence[Device],
        blockdevs: Sequence[str] = (),
        extra: Sequence[str] = (),
    ) -> Iterator[Machine]:
        """A machine that boots with its firmware. Errors and timeouts of QEMU fail the test."""
        own = ["-bios", str(firmware), "-d", "guest_errors"]
        spec = Spec(
            machine=self.guest.machine,
            cpu=self.guest.cpu,
            blockdevs=blockdevs,
            devices=devices,
            extra=[*own, *extra],
        )
        try:
            with Machine(self.build.path("qemu-system-s390x"), spec) as machine:
                yield machine
        except (QapError, TimeoutError) as exc:
            self.fail("\n".join([str(exc), getattr(exc, "detail", "")]))

    def boots(self, machine: Machine, device_id: int) -> set[int]:
        """Wait for the guest; returns the bits that its driver negotiates with a device."""
        try:
            release = machine.console.wait_ready(self.guest.boot_silence)
        except GuestLost:
            self.fail(f"nothing booted; the console ends:\n{machine.console.tail()}")
        self.log.info("%s booted", release)
        return set(
            io_checks.negotiated(machine.console, io_checks.find(machine.console, device_id))
        )

    def test_packaged_firmware_boots_without_the_fence(self) -> None:
        """Protected guests rely on this today, hence the property's default."""
        device = {"driver": "virtio-blk-ccw", "drive": "disk", **UNFENCED}
        with self.machine(self.packaged, [device], [self.disk]) as machine:
            self.assertIn(FeatureBit.ACCESS_PLATFORM, self.boots(machine, BLOCK))

    def test_packaged_firmware_stops_at_the_fence(self) -> None:
        """It gives up at once with a reason, and has read nothing."""
        device = {"driver": "virtio-blk-ccw", "drive": "disk", **FENCED}
        # An event that comes before the monitor is ready would be lost: start by hand.
        extra = ["-S", "-action", "panic=pause"]
        with self.machine(self.packaged, [device], [self.disk], extra) as machine:
            machine.qmp.execute("cont")
            machine.qmp.wait_event("GUEST_PANICKED", lambda _: True, HALT_S)
            # The guest has stopped, so this is all of its output.
            said = machine.serial.recv(65536).decode(errors="replace")
            self.assertIn("Could not write DRIVER_OK status to host", said)
            told = machine.process.tail(OUTPUT_LINES)
            self.assertIn("did not accept VIRTIO_F_ACCESS_PLATFORM and is not served", told)
            (disk,) = machine.qmp.execute("query-blockstats")
            self.assertEqual(disk["stats"]["rd_operations"], 0)

    def test_our_firmware_passes_the_fence(self) -> None:
        device = {"driver": "virtio-blk-ccw", "drive": "disk", **FENCED}
        with self.machine(self.ours, [device], [self.disk]) as machine:
            self.assertIn(FeatureBit.ACCESS_PLATFORM, self.boots(machine, BLOCK))

    def test_our_firmware_boots_at_revision_0(self) -> None:
        """A device with only revision 0 is driven as before."""
        device = {"driver": "virtio-blk-ccw", "drive": "disk", **REVISION_0}
        with self.machine(self.ours, [device], [self.disk]) as machine:
            self.assertNotIn(FeatureBit.VERSION_1, self.boots(machine, BLOCK))

    def test_our_firmware_reads_the_second_disk_of_a_controller(self) -> None:
        """virtio-scsi is set up again after a disk that does not boot.

        :avocado: tags=device:virtio-scsi-ccw
        """
        for properties in (FENCED, REVISION_0):
            devices = [
                {"driver": "virtio-scsi-ccw", **properties},
                {"driver": "scsi-hd", "drive": "empty", "lun": 1, "bootindex": 1},
                {"driver": "scsi-cd", "drive": "disk", "lun": 2, "bootindex": 2},
            ]
            blockdevs = [self.empty, self.disk]
            with self.machine(self.ours, devices, blockdevs) as machine:
                accepted = self.boots(machine, SCSI)
                self.assertEqual(properties is FENCED, FeatureBit.ACCESS_PLATFORM in accepted)

    def test_our_firmware_boots_from_the_network(self) -> None:
        """:avocado: tags=device:virtio-net-ccw"""
        (self.folder / "image").write_bytes(self.image)
        extra = ["-netdev", f"user,id=net,tftp={self.folder},bootfile=image"]
        for properties in (FENCED, REVISION_0):
            device = {"driver": "virtio-net-ccw", "netdev": "net", "bootindex": 1, **properties}
            with self.machine(self.ours, [device], extra=extra) as machine:
                accepted = self.boots(machine, NET)
                self.assertEqual(properties is FENCED, FeatureBit.ACCESS_PLATFORM in accepted)
