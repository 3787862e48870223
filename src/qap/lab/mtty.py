"""Serial ports that can migrate: mediated VFIO devices of L1's kernel, of its sample driver."""

import contextlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qap.host.errors import QapError
from qap.lab.l1 import L1
from qap.machine.device import Device

MODULES = ("vfio_iommu_type1", "mtty")
# With one serial port; mtty-2 has two.
TYPE = "/sys/class/mtty/mtty/mdev_supported_types/mtty-1"
CREATED_S = 10.0


@dataclass(frozen=True)
class Mtty:
    """A serial port of L1's kernel that can be assigned to a QEMU in L1.

    Attributes:
        name: its UUID, which QEMU's messages and the record of MigrationLayer have, too.
    """

    name: str = field(default_factory=lambda: str(uuid.uuid4()))

    def device(self, **properties: object) -> Device:
        """It as a device of QEMU.

        Args:
            properties: more of them; "_" stands for "-".
        """
        named = {key.replace("_", "-"): value for key, value in properties.items()}
        path = f"/sys/bus/mdev/devices/{self.name}"
        return {"driver": "vfio-pci", "id": self.name, "sysfsdev": path, **named}


@contextmanager
def mttys(l1: L1, count: int) -> Iterator[list[Mtty]]:
    """New ones, until the context ends.

    Raises:
        QapError: the module can't be compiled, or L1's kernel does not take it.
        GuestCommandError: L1's kernel makes no such devices.
    """
    l1.load(*MODULES)
    made: list[Mtty] = []
    try:
        for _ in range(count):
            device = Mtty()
            l1.check(f"echo {device.name} >{TYPE}/create")
            made.append(device)
            l1.check(
                f"group=$(basename $(readlink /sys/bus/mdev/devices/{device.name}/iommu_group)) "
                f'&& await "test -c /dev/vfio/$group"',
                CREATED_S,
            )
        yield made
    finally:
        for device in made:
            with contextlib.suppress(QapError, TimeoutError):
                l1.check(f"echo 1 >/sys/bus/mdev/devices/{device.name}/remove")
