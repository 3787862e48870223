"""A guest of ours, with no operating system, that reads configuration before it writes features."""

import tempfile
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.hw.s390x_early_read import image
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest

SECTOR = 4096
STOPPED_S = 30.0


class EarlyConfig(GuestTest):
    """A big-endian guest asks a disk for the size of its blocks right after it set the revision.

    :avocado: enable
    :avocado: tags=arch:s390x,machine:s390-ccw-virtio,device:virtio-blk-ccw,endianness
    """

    def test_block_size(self) -> None:
        disk = {"driver": "virtio-blk-ccw", "drive": "disk", "logical_block_size": SECTOR}
        with tempfile.TemporaryDirectory(prefix="qap-") as folder:
            program = Path(folder) / "early-read.img"
            program.write_bytes(image())
            spec = Spec(
                machine="s390-ccw-virtio",
                cpu="max",
                memory=128,
                blockdevs=["driver=null-co,node-name=disk,size=1048576"],
                devices=[{**disk, "physical_block_size": SECTOR}],
                # An event that comes before the monitor is ready would be lost.
                extra=["-S", "-kernel", str(program), "-action", "panic=pause"],
            )
            try:
                with Machine(Build.under_test().path("qemu-system-s390x"), spec) as machine:
                    machine.qmp.execute("cont")
                    told = machine.qmp.wait_event("GUEST_PANICKED", lambda data: True, STOPPED_S)
            except (QapError, TimeoutError) as exc:
                self.fail("\n".join([str(exc), getattr(exc, "detail", "")]))
        self.log.info("the guest stopped: %s", told)
        self.assertEqual(told["info"]["psw-addr"], SECTOR, "blk_size as the guest reads it")
