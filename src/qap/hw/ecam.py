"""The memory-mapped configuration space of a q35, in which a function has 4096 bytes.

"PCIe" is the PCI Express Base Specification 5.0, "Q35" Intel's 3 Series Express Chipset
Family Datasheet.
"""

from dataclasses import dataclass

from qap.hw.pci import Bdf, Function, PciError
from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest

# Q35 5.1.19, PCIEXBAR of the host bridge: 256 MiB, enabled.
PCIEXBAR = 0x60
ENABLE = 1 << 0
# Beyond the RAM of a small machine, and below the windows of its PCI buses.
BASE = 0xB000_0000

# PCIe 7.6.3.
FIRST = 0x100
SPACE = 0x1000

_READS = {1: command.readb, 2: command.readw, 4: command.readl}
_WRITES = {1: command.writeb, 2: command.writew, 4: command.writel}


@dataclass(frozen=True)
class Ecam:
    """Configuration space by memory accesses (PCIe 7.2.2), from when `open` was called."""

    qtest: Qtest

    @classmethod
    def open(cls, host_bridge: Function) -> "Ecam":
        """Let a q35's host bridge decode it at BASE."""
        host_bridge.config_write(PCIEXBAR + 4, 4, 0)
        host_bridge.config_write(PCIEXBAR, 4, BASE | ENABLE)
        return cls(host_bridge.qtest)

    def read(self, bdf: Bdf, offset: int, size: int) -> int:
        """`size` (1, 2 or 4) bytes at an offset from 0 to 0xFFF."""
        return self.qtest.run_all([_READS[size](self._address(bdf, offset))])[0]

    def write(self, bdf: Bdf, offset: int, size: int, value: int) -> None:
        """Write `size` (1, 2 or 4) bytes at an offset from 0 to 0xFFF."""
        self.qtest.run_all([_WRITES[size](self._address(bdf, offset), value)])

    @staticmethod
    def _address(bdf: Bdf, offset: int) -> int:
        if not 0 <= offset < SPACE:
            raise ValueError(f"{offset:#x} is outside of configuration space")
        return BASE + (bdf.bus << 20 | bdf.device << 15 | bdf.function << 12 | offset)

    def extended_capabilities(self, bdf: Bdf) -> dict[int, int]:
        """The offset of each extended capability, by its id (PCIe 7.6.3), in the list's order.

        Raises:
            PciError: the list runs in a circle, or leaves extended configuration space.
        """
        found: dict[int, int] = {}
        at, seen = FIRST, set[int]()
        while at:
            if at in seen or not FIRST <= at < SPACE:
                raise PciError(f"the extended capability list of {bdf} is broken at {at:#x}")
            seen.add(at)
            header = self.read(bdf, at, 4)
            if header & 0xFFFF:
                found.setdefault(header & 0xFFFF, at)
            at = header >> 20 & ~3
        return found
