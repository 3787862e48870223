"""The PCI buses of a PC, below its host bridge, and their hot-plug slots.

"Bridge" in a docstring is the PCI-to-PCI Bridge Architecture Specification 1.2, "PCIe"
the PCI Express Base Specification 5.0.
"""

from dataclasses import dataclass, field

from qap.hw.pci import (
    CAPABILITY_EXPRESS,
    COMMAND,
    COMMAND_BUS_MASTER,
    COMMAND_IO_SPACE,
    COMMAND_MEMORY_SPACE,
    HEADER_BRIDGE,
    HEADER_MULTI_FUNCTION,
    HEADER_TYPE,
    VENDOR_ID,
    Bdf,
    Function,
    PciError,
    Window,
    Windows,
    read_commands,
)
from qap.machine.qtest import Qtest

DEVICES = 32
FUNCTIONS = 8
LAST_BUS = 255
NOBODY = 0xFFFF

# Bridge 3.2.5: the registers, and in what steps a window may lie.
PRIMARY_BUS = 0x18
SECONDARY_BUS = 0x19
SUBORDINATE_BUS = 0x1A
IO_BASE = 0x1C
IO_LIMIT = 0x1D
MEMORY_BASE = 0x20
MEMORY_LIMIT = 0x22
PREFETCHABLE_BASE = 0x24
PREFETCHABLE_LIMIT = 0x26
MEMORY_STEP = 1 << 20
IO_STEP = 1 << 12
SHARE = 16

# PCIe 7.5.3.10 and 7.5.3.11, offsets in the PCI Express capability.
SLOT_CONTROL = 0x18
SLOT_STATUS = 0x1A
POWER_INDICATOR = 0b11 << 8
POWER_INDICATOR_ON = 0b01 << 8
POWER_INDICATOR_OFF = 0b11 << 8
POWER_OFF = 1 << 10
ATTENTION_BUTTON_PRESSED = 1 << 0
PRESENCE_DETECT_CHANGED = 1 << 3
PRESENCE_DETECTED = 1 << 6


def _pc_windows() -> Windows:
    """The hole below the I/O APIC of a pc or q35 with at most 2 GiB of RAM."""
    return Windows(
        Window(0xE000_0000, 0xFEC0_0000), Window(0xC000_0000, 0xE000_0000), Window(0x2000, 0x10000)
    )


@dataclass
class PciBus:
    """Every bus below the host bridge of a pc or q35.

    Args:
        windows: of the host bridge; a PC's by default.
        roots: numbers of the root buses: the host bridge's, and those of a pxb.

    It numbers the buses itself, whatever a firmware or a reset has left there. A bridge
    always gets the same number and windows.
    """

    qtest: Qtest
    windows: Windows = field(default_factory=_pc_windows)
    roots: tuple[int, ...] = (0,)
    _buses: dict[int, Windows] = field(init=False)
    _numbers: dict[Bdf, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._buses = dict.fromkeys(self.roots, self.windows)

    def scan(self) -> list[Function]:
        """Every function there is now, after opening the bridges that are not open yet.

        Raises:
            PciError: no bus number or no window is left for a bridge.
        """
        return [function for root in self.roots for function in self._scan(root)]

    def find(self, vendor_id: int, *device_ids: int) -> Function:
        """The only function of this vendor and one of these ids, any if none is given.

        Raises:
            PciError: there is none, or more than one.
        """
        functions = [
            function
            for function in self.scan()
            if function.vendor_id == vendor_id
            and (not device_ids or function.device_id in device_ids)
        ]
        if len(functions) != 1:
            raise PciError(
                f"{len(functions)} functions of vendor {vendor_id:#06x} are on the bus, not one"
            )
        return functions[0]

    def _scan(self, bus: int) -> list[Function]:
        places = self._present([Bdf(bus, device, 0) for device in range(DEVICES)])
        for first, header in list(places.items()):
            if header & HEADER_MULTI_FUNCTION:
                others = [Bdf(bus, first.device, number) for number in range(1, FUNCTIONS)]
                places |= self._present(others)
        functions = [Function(self.qtest, bdf, self._buses[bus]) for bdf in sorted(places)]
        bridges = [
            function
            for function in functions
            if places[function.bdf] & ~HEADER_MULTI_FUNCTION == HEADER_BRIDGE
        ]
        # A number that was set before this object existed may be one that another bridge gets now.
        unset = [bridge for bridge in bridges if not self._is_open(bridge)]
        for bridge in unset:
            bridge.config_write(PRIMARY_BUS, 4, 0)
        for bridge in unset:
            self._open(bridge)
        for bridge in bridges:
            functions += self._scan(self._numbers[bridge.bdf])
        return functions

    def _present(self, places: list[Bdf]) -> dict[Bdf, int]:
        """The header type of each function that answers."""
        vendors = self._read(places, VENDOR_ID, 2)
        there = [bdf for bdf, vendor in vendors.items() if vendor != NOBODY]
        return self._read(there, HEADER_TYPE, 1)

    def _read(self, places: list[Bdf], offset: int, size: int) -> dict[Bdf, int]:
        commands = [command for bdf in places for command in read_commands(bdf, offset, size)]
        values = self.qtest.run_all(commands)[1::2]
        return {bdf: value or 0 for bdf, value in zip(places, values, strict=True)}

    def _is_open(self, bridge: Function) -> bool:
        return bridge.config_read(SECONDARY_BUS, 1) == self._numbers.get(bridge.bdf)

    def _open(self, bridge: Function) -> None:
        number = self._numbers.setdefault(bridge.bdf, self._last_below(bridge) + 1)
        if number > LAST_BUS:
            raise PciError(f"no bus number is left for the bridge {bridge}")
        bridge.config_write(PRIMARY_BUS, 1, bridge.bdf.bus)
        bridge.config_write(SECONDARY_BUS, 1, number)
        bridge.config_write(SUBORDINATE_BUS, 1, LAST_BUS)
        self._buses[number] = _open_windows(bridge, self._buses.get(number))
        self._scan(number)
        bridge.config_write(SUBORDINATE_BUS, 1, self._last_below(bridge))

    def _last_below(self, bridge: Function) -> int:
        """The highest number so far below the root bus that a bridge is below."""
        root = max(root for root in self.roots if root <= bridge.bdf.bus)
        above = min((other for other in self.roots if other > root), default=LAST_BUS + 1)
        return max(number for number in self._buses if root <= number < above)


def _open_windows(bridge: Function, known: Windows | None) -> Windows:
    above = bridge.windows
    windows = known or Windows(
        _share(above.memory, MEMORY_STEP, bridge),
        _share(above.prefetchable, MEMORY_STEP, bridge),
        _share(above.io, IO_STEP, bridge),
    )
    for base, limit, window in (
        (MEMORY_BASE, MEMORY_LIMIT, windows.memory),
        (PREFETCHABLE_BASE, PREFETCHABLE_LIMIT, windows.prefetchable),
    ):
        bridge.config_write(base, 2, window.base >> 16)
        bridge.config_write(limit, 2, (window.end - 1) >> 16)
    bridge.config_write(IO_BASE, 1, windows.io.base >> 8 & 0xF0)
    bridge.config_write(IO_LIMIT, 1, (windows.io.end - 1) >> 8 & 0xF0)
    bridge.config_write(COMMAND, 2, COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER)
    return windows


def _share(window: Window, step: int, bridge: Function) -> Window:
    """A sixteenth of the window, in whole steps and at least one."""
    size = max(step, (window.end - window.base) // SHARE // step * step)
    base = window.take(size, step, bridge.bdf)
    return Window(base, base + size)


class Slot:
    """The slot of a hot-plug capable port (PCIe 6.7).

    Args:
        port: a root port or downstream port.
    Raises:
        PciError: it is no PCI Express function.
    """

    def __init__(self, port: Function) -> None:
        self.port = port
        self._at = port.capability(CAPABILITY_EXPRESS).offset

    @property
    def status(self) -> int:
        """Slot Status; PRESENCE_DETECTED says whether a device is in it."""
        return self.port.config_read(self._at + SLOT_STATUS, 2)

    @property
    def occupied(self) -> bool:
        return bool(self.status & PRESENCE_DETECTED)

    def acknowledge(self) -> int:
        """Clear the events in Slot Status; returns which there were."""
        events = self.status & (ATTENTION_BUTTON_PRESSED | PRESENCE_DETECT_CHANGED)
        self.port.config_write(self._at + SLOT_STATUS, 2, events)
        return events

    def power(self, on: bool) -> None:
        """Switch power and its indicator; switching off releases the device."""
        control = self.port.config_read(self._at + SLOT_CONTROL, 2)
        control &= ~(POWER_OFF | POWER_INDICATOR)
        control |= POWER_INDICATOR_ON if on else POWER_OFF | POWER_INDICATOR_OFF
        self.port.config_write(self._at + SLOT_CONTROL, 2, control)
