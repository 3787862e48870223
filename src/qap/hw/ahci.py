"""A port of an AHCI host bus adapter, as a driver sees it.

"AHCI" in a docstring is the Serial ATA AHCI specification 1.3.1; "SATA" is Serial ATA 3.0;
"ACS" is ATA/ATAPI Command Set 2.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from qap.host.wait import poll_until
from qap.hw.pci import Function
from qap.machine.guest_memory import GuestMemory

VENDOR_ID = 0x8086
DEVICE_ID = 0x2922  # of an ICH9 in AHCI mode
ABAR = 5
SECTOR = 512
ANSWER_S = 20.0

# AHCI 3.1 and 3.3.
GHC = 0x04
GHC_ENABLE = 1 << 31
PORTS = 0x100
PORT_SIZE = 0x80
CLB, FB, IS, CMD, TFD, SCTL, SERR, SACT, CI = (
    *(0x00, 0x08, 0x10, 0x18),
    *(0x20, 0x2C, 0x30, 0x34, 0x38),
)
IS_HOST_BUS_FATAL = 1 << 29
CMD_START = 1 << 0
CMD_FIS_RECEIVE = 1 << 4
CMD_FIS_RUNNING = 1 << 14
CMD_LIST_RUNNING = 1 << 15
TFD_ERROR, TFD_DATA_REQUEST, TFD_BUSY = 1 << 0, 1 << 3, 1 << 7
DET_RESET = 1

# AHCI 4.2: sizes and places of what a port finds in memory.
LIST_SIZE, FIS_SIZE = 1024, 256
FIS_REGISTER = 0x40
TABLE_PACKET = 0x40
TABLE_REGIONS = 0x80
HEADER_PACKET, HEADER_WRITE = 1 << 5, 1 << 6
FIS_DWORDS = 5

REGISTER_HOST_TO_DEVICE = 0x27
IS_COMMAND = 1 << 7
BY_LBA = 1 << 6


@dataclass(frozen=True)
class AtaCommand:
    """A command for sectors, and how it moves them (ACS 7).

    Attributes:
        code: of the command.
        write: from memory to the device.
        queued: by SACT, its tag in the count (ACS 7.14).
        packet: it is PACKET, for an ATAPI device.
        features: what else it says.
    """

    code: int
    write: bool = False
    queued: bool = False
    packet: bool = False
    features: int = 0


READ_DMA = AtaCommand(0x25)
WRITE_DMA = AtaCommand(0x35, write=True)
READ_PIO = AtaCommand(0x24)
WRITE_PIO = AtaCommand(0x34, write=True)
READ_QUEUED = AtaCommand(0x60, queued=True)
WRITE_QUEUED = AtaCommand(0x61, write=True, queued=True)
PACKET_DMA = AtaCommand(0xA0, packet=True, features=1)
TRIM = AtaCommand(0x06, write=True, features=1)


class PortFailed(Exception):
    """A command ended with an error.

    Attributes:
        status: the port's task file data (AHCI 3.3.8).
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"a command ended with task file {status:#x}")
        self.status = status


@dataclass(frozen=True)
class Region:
    """A piece of memory for data: its address and its size, an even number of bytes."""

    address: int
    size: int


@dataclass
class AhciPort:
    """One port, whose command list and received FISes are in `memory`. It uses slot 0.

    Attributes:
        list: address of the command list.
        fises: address of the FISes that it receives.
    """

    function: Function
    memory: GuestMemory
    number: int = 0
    list: int = field(init=False)
    fises: int = field(init=False)
    _registers: int = field(init=False)

    def __post_init__(self) -> None:
        self._registers = self.function.map_bars()[ABAR].address
        self.list = self.memory.take(4096, 4096)
        self.fises = self.memory.take(4096, 4096)
        self._table = self.memory.take(4096, 4096)
        self.function.qtest.writel(self._registers + GHC, GHC_ENABLE)

    def get(self, register: int) -> int:
        """A register of the port."""
        return self.function.qtest.readl(self._at(register))

    def set(self, register: int, value: int) -> None:
        """Write a register of the port."""
        self.function.qtest.writel(self._at(register), value)

    def _at(self, register: int) -> int:
        return self._registers + PORTS + PORT_SIZE * self.number + register

    @property
    def interrupts(self) -> int:
        """What it wants to tell since the last command began (AHCI 3.3.5)."""
        return self.get(IS)

    def start(self, command_list: int | None = None, fises: int | None = None) -> None:
        """Let it receive FISes and process the list (AHCI 10.3).

        Args:
            command_list, fises: addresses to be used in place of its own.
        """
        for register, address in (
            (CLB, self.list if command_list is None else command_list),
            (FB, self.fises if fises is None else fises),
        ):
            self.set(register, address & 0xFFFF_FFFF)
            self.set(register + 4, address >> 32)
        self.set(CMD, CMD_FIS_RECEIVE)
        self.set(CMD, CMD_FIS_RECEIVE | CMD_START)

    def stop(self) -> None:
        """Let it do neither, and wait until it doesn't."""
        self.set(CMD, 0)
        running = CMD_FIS_RUNNING | CMD_LIST_RUNNING
        poll_until(
            lambda: not self.get(CMD) & running or None, ANSWER_S, lambda: "the port to stop"
        )

    def reset_link(self) -> None:
        """COMRESET (AHCI 10.4.2)."""
        self.set(SCTL, DET_RESET)
        self.set(SCTL, 0)

    def reset(self) -> None:
        """Reset the link, then start again."""
        self.reset_link()
        self.stop()
        self.set(SERR, 0xFFFF_FFFF)
        self.set(IS, 0xFFFF_FFFF)
        self.start()

    def issue(
        self, command: AtaCommand, lba: int, regions: Sequence[Region], packet: bytes = b""
    ) -> None:
        """Start a command; it moves as many sectors as the regions hold.

        Args:
            packet: for an ATAPI device: its command, of 12 bytes.
        """
        count = sum(region.size for region in regions) // SECTOR
        features, sectors = (count, 0) if command.queued else (command.features, count)
        low, high = lba & 0xFF_FFFF, lba >> 24
        fis = struct.pack(
            "<BBBB3sB3sBHxx4x",
            *(REGISTER_HOST_TO_DEVICE, IS_COMMAND, command.code, features & 0xFF),
            *(low.to_bytes(3, "little"), BY_LBA, high.to_bytes(3, "little"), features >> 8),
            sectors,
        )
        entries = [struct.pack("<QxxxxI", region.address, region.size - 1) for region in regions]
        flags = FIS_DWORDS | HEADER_WRITE * command.write | HEADER_PACKET * command.packet
        header = struct.pack("<HHIQ16x", flags, len(regions), 0, self._table)
        self.memory.write(self._table, fis)
        if packet:
            self.memory.write(self._table + TABLE_PACKET, packet)
        self.memory.write(self._table + TABLE_REGIONS, b"".join(entries))
        self.memory.write(self.list, header)
        self.set(IS, 0xFFFF_FFFF)
        if command.queued:
            self.set(SACT, 1)
        self.set(CI, 1)

    def wait(self) -> None:
        """Wait for the command.

        Raises:
            PortFailed: it ended with an error.
            TimeoutError: it doesn't end.
        """

        def ended() -> int | None:
            status = self.get(TFD)
            if status & TFD_ERROR:
                return status
            working = self.get(CI) | self.get(SACT) or status & (TFD_BUSY | TFD_DATA_REQUEST)
            return None if working else status

        status = poll_until(ended, ANSWER_S, lambda: "a command of the port to end")
        if status & TFD_ERROR:
            raise PortFailed(status)

    def run(
        self, command: AtaCommand, lba: int, regions: Sequence[Region], packet: bytes = b""
    ) -> None:
        """`issue` and `wait`; raises as that does."""
        self.issue(command, lba, regions, packet)
        self.wait()
