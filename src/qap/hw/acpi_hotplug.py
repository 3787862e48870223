"""ACPI PCI hot-plug as a guest drives it (QEMU, docs/specs/acpi_pci_hotplug.rst)."""

from dataclasses import dataclass

from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest

# Where the registers are, by machine type.
BASES = {"pc": 0xAE00, "q35": 0x0CC0}
DOWN = 0x04
EJECT = 0x08
SELECT = 0x10


@dataclass(frozen=True)
class AcpiHotplug:
    """The hot-plug registers of a PC.

    Args:
        base: their first I/O port, see BASES.
        buses: how many buses can be selected, numbered from 0.
    """

    qtest: Qtest
    base: int
    buses: int = 2

    def eject(self) -> int:
        """Eject every device whose removal was requested; returns how many there were."""
        asked = [command.outl(self.base + SELECT, 0), command.inl(self.base + DOWN)]
        ejected = 0
        for bus in range(self.buses):
            asked[0] = command.outl(self.base + SELECT, bus)
            slots = self.qtest.run_all(asked)[1] or 0
            if slots:
                self.qtest.outl(self.base + EJECT, slots)
                ejected += slots.bit_count()
        return ejected
