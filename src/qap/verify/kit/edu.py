"""A device that does DMA wherever it is told to."""

from dataclasses import dataclass

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.machine import Machine

EDU_BUFFER = 0x40000
EDU_SIZE = 4096
VENDOR_DEVICE = (0x1234, 0x11E8)
RUN, TO_MEMORY = 1, 2
COPIED_S = 10


@dataclass
class Edu:
    """QEMU's teaching device, which copies memory into a buffer of its own and back.

    Its registers are those of docs/specs/edu.rst in QEMU's source.

    Args:
        machine: one with the device.
        registers: their address.
    """

    machine: Machine
    registers: int

    @classmethod
    def of(cls, machine: Machine) -> "Edu":
        """The machine's only one, with its registers mapped."""
        function = PciBus(machine.qtest).find(*VENDOR_DEVICE)
        return cls(machine, function.map_bars()[0].address)

    def copy(self, source: int, target: int, size: int = EDU_SIZE) -> None:
        """Do a DMA and wait for it; one of the addresses is in the device's buffer."""
        qtest = self.machine.qtest
        for at, value in ((0x80, source), (0x88, target), (0x90, size)):
            qtest.writeq(self.registers + at, value)
        qtest.writeq(self.registers + 0x98, RUN | (TO_MEMORY if source == EDU_BUFFER else 0))
        poll_until(
            lambda: not qtest.readq(self.registers + 0x98) & RUN or None,
            COPIED_S,
            lambda: f"DMA from {source:#x} to {target:#x}",
        )
