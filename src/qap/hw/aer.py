"""Advanced Error Reporting of PCI Express, as a driver uses it.

"PCIe" in a docstring is the PCI Express Base Specification 5.0.
"""

from dataclasses import dataclass, field

from qap.hw.ecam import Ecam
from qap.hw.pci import CAPABILITY_EXPRESS, COMMAND, Bdf, Function, PciError

CAPABILITY_AER = 0x0001

# PCIe 7.8.4: registers of the capability.
UNCORRECTABLE_STATUS = 0x04
UNCORRECTABLE_MASK = 0x08
UNCORRECTABLE_SEVERITY = 0x0C
CAPABILITIES_AND_CONTROL = 0x18
ROOT_ERROR_COMMAND = 0x2C
ROOT_ERROR_STATUS = 0x30
SOURCE_ID = 0x34

# PCIe 7.8.4.2, bits of the uncorrectable error registers.
DATA_LINK_PROTOCOL = 1 << 4
COMPLETION_TIMEOUT = 1 << 14

# PCIe 7.8.4.9 and 7.8.4.10: bits of Root Error Command and Root Error Status.
COMMAND_NON_FATAL = 1 << 1
COMMAND_FATAL = 1 << 2
UNCORRECTABLE_RECEIVED = 1 << 2
MULTIPLE_UNCORRECTABLE_RECEIVED = 1 << 3
NON_FATAL_RECEIVED = 1 << 5
FATAL_RECEIVED = 1 << 6
RECEIVED = 0x7F

# PCIe 7.5.3.4 and 7.5.3.5, Device Control and Device Status.
DEVICE_CONTROL = 0x08
DEVICE_STATUS = 0x0A
REPORT_CORRECTABLE = 1 << 0
REPORT_NON_FATAL = 1 << 1
REPORT_FATAL = 1 << 2
REPORT_UNSUPPORTED = 1 << 3
REPORT_ALL = 0xF
NON_FATAL_DETECTED = 1 << 1

# PCIe 7.5.1.1.3 and 7.5.1.3.10.
SERR_ENABLE = 1 << 8
BRIDGE_CONTROL = 0x3E
BRIDGE_SERR_ENABLE = 1 << 1


@dataclass(frozen=True)
class AerFunction:
    """A function that reports errors.

    Raises:
        PciError: it has no AER capability.
    """

    ecam: Ecam
    function: Function
    express: int = field(init=False)
    at: int = field(init=False)

    def __post_init__(self) -> None:
        known = self.ecam.extended_capabilities(self.bdf)
        if CAPABILITY_AER not in known:
            raise PciError(f"{self.bdf} has no AER capability")
        object.__setattr__(self, "at", known[CAPABILITY_AER])
        object.__setattr__(self, "express", self.function.capability(CAPABILITY_EXPRESS).offset)

    @property
    def bdf(self) -> Bdf:
        return self.function.bdf

    def read(self, register: int) -> int:
        """A 32-bit register of the AER capability."""
        return self.ecam.read(self.bdf, self.at + register, 4)

    def write(self, register: int, value: int) -> None:
        """Write a 32-bit register of the AER capability."""
        self.ecam.write(self.bdf, self.at + register, 4, value)

    @property
    def status(self) -> int:
        """Uncorrectable Error Status."""
        return self.read(UNCORRECTABLE_STATUS)

    @property
    def device_control(self) -> int:
        return self.function.config_read(self.express + DEVICE_CONTROL, 2)

    @property
    def device_status(self) -> int:
        return self.function.config_read(self.express + DEVICE_STATUS, 2)

    def report(self, kinds: int = REPORT_ALL) -> None:
        """Enable these kinds of error messages in Device Control, and no others."""
        control = self.device_control & ~REPORT_ALL | kinds
        self.function.config_write(self.express + DEVICE_CONTROL, 2, control)

    def mask_all(self) -> None:
        """Report no uncorrectable error (PCIe 7.8.4.3)."""
        self.write(UNCORRECTABLE_MASK, 0xFFFF_FFFF)

    def clear(self) -> None:
        """Clear what Uncorrectable Error Status and Device Status have (write 1 to clear)."""
        self.write(UNCORRECTABLE_STATUS, self.status)
        self.function.config_write(self.express + DEVICE_STATUS, 2, self.device_status & 0xF)


@dataclass(frozen=True)
class AerPort(AerFunction):
    """A root port: it takes the messages of what is behind it (PCIe 6.2.6)."""

    def listen(self, kinds: int = COMMAND_NON_FATAL | COMMAND_FATAL) -> None:
        """Take messages from below, and raise an interrupt for these kinds."""
        control = self.function.config_read(BRIDGE_CONTROL, 2)
        self.function.config_write(BRIDGE_CONTROL, 2, control | BRIDGE_SERR_ENABLE)
        command = self.function.config_read(COMMAND, 2)
        self.function.config_write(COMMAND, 2, command | SERR_ENABLE)
        self.report()
        self.write(ROOT_ERROR_COMMAND, kinds)

    @property
    def received(self) -> int:
        """Root Error Status, without its interrupt message number."""
        return self.read(ROOT_ERROR_STATUS) & RECEIVED

    @property
    def source(self) -> Bdf:
        """Who sent the first uncorrectable error (PCIe 7.8.4.11)."""
        requester = self.read(SOURCE_ID) >> 16
        return Bdf(requester >> 8, requester >> 3 & 0x1F, requester & 7)

    def acknowledge(self) -> int:
        """Clear Root Error Status; returns what it had."""
        received = self.received
        self.write(ROOT_ERROR_STATUS, received)
        return received
