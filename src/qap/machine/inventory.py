"""What a QEMU holds, to see what a device leaves behind."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Self

from qap.machine.machine import Machine, address_spaces

FOLDERS = ("/machine/peripheral", "/machine/peripheral-anon", "/chardevs")


@dataclass(frozen=True)
class Inventory:
    """What a QEMU has: AddressSpaces by name, QOM children, open file descriptors."""

    spaces: Counter[str]
    objects: set[str]
    fds: int

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """What that QEMU has now."""
        spaces = Counter(address_spaces(machine.qmp.hmp("info mtree -f")))
        objects = {
            f"{path}/{child['name']}"
            for path in FOLDERS
            for child in machine.qmp.execute("qom-list", path=path)
        }
        fds = len(os.listdir(f"/proc/{machine.child.pid}/fd"))  # noqa: PTH208
        return cls(spaces, objects, fds)

    def beyond(self, before: "Inventory") -> list[str]:
        """What is here and was not there."""
        spaces = [
            f"{count} AddressSpace {name}" for name, count in (self.spaces - before.spaces).items()
        ]
        objects = [f"QOM {path}" for path in sorted(self.objects - before.objects)]
        more = self.fds - before.fds
        return [*spaces, *objects, *([f"{more} file descriptors"] if more > 0 else [])]
