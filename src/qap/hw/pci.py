"""PCI functions as a driver sees them: configuration space, capabilities, BARs, MSI-X.

"PCI" in a docstring is the PCI Local Bus Specification 3.0, "PCIe" the PCI Express Base
Specification 5.0. Registers are little-endian; values here are integers.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from qap.host.errors import QapError
from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand

# PCI 3.2.2.3.2, configuration mechanism #1.
CONFIG_ADDRESS = 0xCF8
CONFIG_DATA = 0xCFC
ENABLE = 1 << 31

# PCI 6.1, figure 6-1, and 6.2.2.
VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
HEADER_TYPE = 0x0E
BAR_0 = 0x10
CAPABILITIES_POINTER = 0x34
COMMAND_IO_SPACE = 1 << 0
COMMAND_MEMORY_SPACE = 1 << 1
COMMAND_BUS_MASTER = 1 << 2
STATUS_CAPABILITIES_LIST = 1 << 4
HEADER_MULTI_FUNCTION = 1 << 7
HEADER_BRIDGE = 1
ALL_ONES = 0xFFFF_FFFF
CONFIG_SIZE = 0x100

# PCI 6.2.5.1.
BAR_IO = 1 << 0
BAR_64 = 0b10 << 1
BAR_TYPE = 0b11 << 1
BAR_PREFETCHABLE = 1 << 3
BAR_IO_FLAGS = 0x3
BAR_MEMORY_FLAGS = 0xF

# PCI 6.8.2 and appendix H.
CAPABILITY_MSI_X = 0x11
CAPABILITY_VENDOR = 0x09
CAPABILITY_EXPRESS = 0x10
MSI_X_ENABLE = 1 << 15
MSI_X_ENTRY = 16

_READS = {1: command.inb, 2: command.inw, 4: command.inl}
_WRITES = {1: command.outb, 2: command.outw, 4: command.outl}


class PciError(QapError):
    """The bus or a function is not as the driver needs it."""


@dataclass(frozen=True, order=True)
class Bdf:
    """Where a function is: bus 0 to 255, device 0 to 31, function 0 to 7."""

    bus: int
    device: int
    function: int

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.device:02x}.{self.function}"


@dataclass(frozen=True)
class Capability:
    """A capability: its id (PCI appendix H) and offset in configuration space."""

    id: int
    offset: int


@dataclass(frozen=True)
class Bar:
    """A base address register (PCI 6.2.5.1).

    Attributes:
        index: 0 to 5; a 64-bit one takes the next index, too.
        size: in bytes, a power of two.
        address: where it was put, in memory or I/O space.
    """

    index: int
    io: bool
    wide: bool
    prefetchable: bool
    size: int
    address: int


@dataclass
class Window:
    """A range of addresses, or ports, to put BARs and bridge windows into.

    Attributes:
        base, end: the first address and the one after the last.
    """

    base: int
    end: int
    _next: int = field(init=False)
    _taken: dict[tuple[Hashable, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._next = self.base

    def take(self, size: int, alignment: int, owner: Hashable) -> int:
        """The address of `size` bytes that no other owner gets.

        An owner that asks again gets the same address, as a slot may get another device.

        Raises:
            PciError: there is no room.
        """
        if (owner, size) in self._taken:
            return self._taken[owner, size]
        address = -(-self._next // alignment) * alignment
        if address + size > self.end:
            raise PciError(f"no room for {size:#x} bytes in {self.base:#x} to {self.end:#x}")
        self._next = address + size
        self._taken[owner, size] = address
        return address


@dataclass(frozen=True)
class Windows:
    """The windows of a bus: 32-bit memory, prefetchable memory, and I/O ports."""

    memory: Window
    prefetchable: Window
    io: Window


@dataclass
class Function:
    """A PCI function.

    Args:
        windows: where `map_bars` takes addresses from.
    """

    qtest: Qtest
    bdf: Bdf
    windows: Windows

    def __str__(self) -> str:
        return str(self.bdf)

    def config_read(self, offset: int, size: int) -> int:
        """`size` (1, 2 or 4) bytes of configuration space; all ones if there is no function."""
        return self._run([*read_commands(self.bdf, offset, size)])[-1]

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` (1, 2 or 4) bytes of configuration space."""
        self._run([_select(self.bdf, offset), _WRITES[size](CONFIG_DATA + offset % 4, value)])

    def config_bytes(self, offset: int, size: int) -> bytes:
        """A range of configuration space, aligned to 4 bytes at both ends."""
        commands: list[QtestCommand[int] | QtestCommand[None]] = []
        for at in range(offset, offset + size, 4):
            commands += read_commands(self.bdf, at, 4)
        return b"".join(word.to_bytes(4, "little") for word in self._run(commands)[1::2])

    def _run(self, commands: Sequence[QtestCommand[int] | QtestCommand[None]]) -> list[int]:
        return [answer or 0 for answer in self.qtest.run_all(commands)]

    @property
    def vendor_id(self) -> int:
        return self.config_read(VENDOR_ID, 2)

    @property
    def device_id(self) -> int:
        return self.config_read(DEVICE_ID, 2)

    @property
    def is_bridge(self) -> bool:
        return self.config_read(HEADER_TYPE, 1) & ~HEADER_MULTI_FUNCTION == HEADER_BRIDGE

    def capabilities(self) -> list[Capability]:
        """Every capability in the order of the list (PCI 6.7).

        Raises:
            PciError: the list runs in a circle.
        """
        space = self.config_bytes(0, CONFIG_SIZE)
        if not space[STATUS] & STATUS_CAPABILITIES_LIST:
            return []
        capabilities: list[Capability] = []
        at = space[CAPABILITIES_POINTER] & ~3
        while at:
            if any(known.offset == at for known in capabilities):
                raise PciError(f"the capability list of {self} meets itself at {at:#x}")
            capabilities.append(Capability(space[at], at))
            at = space[at + 1] & ~3
        return capabilities

    def capability(self, capability_id: int) -> Capability:
        """The first capability of this id.

        Raises:
            PciError: there is none.
        """
        for capability in self.capabilities():
            if capability.id == capability_id:
                return capability
        raise PciError(f"{self} has no capability {capability_id:#x}")

    def map_bars(self) -> dict[int, Bar]:
        """Size the BARs, assign addresses within the bus's windows, and enable the function.

        Memory and I/O decoding and bus mastering are on afterwards (PCI 6.2.2).

        Raises:
            PciError: the bus has no room left.
        """
        self.config_write(COMMAND, 2, 0)
        bars: dict[int, Bar] = {}
        index, count = 0, 2 if self.is_bridge else 6
        while index < count:
            bar = self._map_bar(index)
            if bar:
                bars[index] = bar
            index += 2 if bar and bar.wide else 1
        self.config_write(COMMAND, 2, COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER)
        return bars

    def _map_bar(self, index: int) -> Bar | None:
        mask = self._bar_mask(index)
        if not mask:
            return None
        io = bool(mask & BAR_IO)
        wide = not io and mask & BAR_TYPE == BAR_64
        prefetchable = not io and bool(mask & BAR_PREFETCHABLE)
        if wide:
            mask |= self._bar_mask(index + 1) << 32
        else:
            mask |= ALL_ONES << 32
        if io and not mask & 0xFFFF_0000:
            mask |= 0xFFFF_0000
        flags = BAR_IO_FLAGS if io else BAR_MEMORY_FLAGS
        size = (~(mask & ~flags) & (1 << 64) - 1) + 1
        room = self.windows.prefetchable if prefetchable else self.windows.memory
        address = (self.windows.io if io else room).take(size, size, (self.bdf, index))
        self.config_write(BAR_0 + 4 * index, 4, address & ALL_ONES)
        if wide:
            self.config_write(BAR_0 + 4 * index + 4, 4, address >> 32)
        return Bar(index, io, wide, prefetchable, size, address)

    def _bar_mask(self, index: int) -> int:
        self.config_write(BAR_0 + 4 * index, 4, ALL_ONES)
        return self.config_read(BAR_0 + 4 * index, 4)

    def enable_msi_x(self, bars: dict[int, Bar], messages: Sequence[tuple[int, int]]) -> None:
        """Turn MSI-X on, with one (address, data) message for each vector from 0 (PCI 6.8.2).

        With an address in RAM, an interrupt is a word that `Qtest.readl` reads there.

        Args:
            bars: what `map_bars` returned.
            messages: 64-bit address and 32-bit data of each vector; the rest stay masked.
        Raises:
            PciError: no MSI-X, or fewer vectors than messages.
        """
        at = self.capability(CAPABILITY_MSI_X).offset
        control = self.config_read(at + 2, 2)
        if len(messages) > (control & 0x7FF) + 1:
            raise PciError(f"{self} has {(control & 0x7FF) + 1} MSI-X vectors")
        where = self.config_read(at + 4, 4)
        table = bars[where & 7].address + (where & ~7)
        for vector, (address, data) in enumerate(messages):
            entry = table + MSI_X_ENTRY * vector
            words = (address & ALL_ONES, address >> 32, data, 0)
            self.qtest.run_all(
                [command.writel(entry + 4 * index, word) for index, word in enumerate(words)]
            )
        self.config_write(at + 2, 2, control | MSI_X_ENABLE)


def read_commands(bdf: Bdf, offset: int, size: int) -> tuple[QtestCommand[None], QtestCommand[int]]:
    """The two commands that read configuration space; the second one has the answer."""
    return _select(bdf, offset), _READS[size](CONFIG_DATA + offset % 4)


def _select(bdf: Bdf, offset: int) -> QtestCommand[None]:
    if not 0 <= offset < CONFIG_SIZE:
        raise ValueError(f"{offset:#x} is outside of what ports reach of configuration space")
    where = bdf.bus << 16 | bdf.device << 11 | bdf.function << 8 | offset & ~3
    return command.outl(CONFIG_ADDRESS, ENABLE | where)
