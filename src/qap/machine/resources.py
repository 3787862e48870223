"""The resources that a QEMU holds, and what it has got since an earlier look."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from qap.machine.machine import Machine

# QOM containers: devices with an id, devices without one, objects without a parent, chardevs.
PARENTS = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached", "/chardevs")
# Each look is a turn of QEMU's main loop.
LOOKS = 20
ADDRESS_SPACE = re.compile(r"^address-space: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Footprint:
    """What a QEMU holds.

    Attributes:
        fds: open file descriptors by what they refer to, such as “socket” or a path.
        threads: how many there are.
        spaces: AddressSpaces by name.
        objects: QOM children by parent and type.
        resident: private resident memory in bytes.
    """

    fds: Counter[str]
    threads: int
    spaces: Counter[str]
    objects: Counter[str]
    resident: int

    @classmethod
    def of(cls, machine: Machine) -> "Footprint":
        """Look at a machine.

        It uses `info mtree` without -f: with -f, QEMU 10.0 keeps every FlatView that two
        AddressSpaces share, and the devices in it.

        Raises:
            QmpLost, OSError: QEMU has ended.
        """
        qmp = machine.qmp
        objects = Counter(
            f"{parent} {qom['type']}"
            for parent in PARENTS
            for qom in qmp.execute("qom-list", path=parent)
        )
        spaces = Counter(ADDRESS_SPACE.findall(qmp.hmp("info mtree")))
        held = machine.held()
        return cls(held.fds, held.threads, spaces, objects, held.resident)

    @classmethod
    def settled(cls, machine: Machine, before: "Footprint") -> "Footprint":
        """Look again until nothing more is there than before: QEMU frees some things later.

        After LOOKS looks it is what it is.
        """
        for _ in range(LOOKS):
            footprint = cls.of(machine)
            if not footprint.beyond(before):
                break
        return footprint

    def beyond(self, before: "Footprint") -> list[str]:
        """What QEMU holds more of than `before`, in words; the caller compares the memory."""
        kinds = (
            ("file descriptor", self.fds, before.fds),
            ("AddressSpace", self.spaces, before.spaces),
            ("QOM", self.objects, before.objects),
        )
        excess = [
            f"{count} more {kind} {name} (of {then[name]})"
            for kind, now, then in kinds
            for name, count in sorted((now - then).items())
        ]
        more = self.threads - before.threads
        return [*excess, *([f"{more} more threads (of {before.threads})"] if more > 0 else [])]

    def as_dict(self) -> dict[str, Any]:
        """How many of each, and the memory in bytes."""
        return {
            name: value.total() if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }
