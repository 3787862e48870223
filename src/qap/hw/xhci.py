"""A USB host controller, and control transfers of the one device behind it.

"xHCI" in a docstring is Intel's eXtensible Host Controller Interface 1.1, "USB" is USB 2.0.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from qap.host.wait import poll_until
from qap.hw.pci import Function, PciError
from qap.machine.guest_memory import GuestMemory

VENDOR_ID, DEVICE_ID = 0x1B36, 0x000D  # of QEMU's qemu-xhci
ANSWER_S = 20.0
PAGE, TRB, CONTEXT = 4096, 16, 32
ENTRIES = 128  # of a ring; a driver of ours starts anew before it has used that many

# xHCI 5.3: capability registers.
PARAMETERS_1, DOORBELLS, RUNTIME = 0x04, 0x14, 0x18
# 5.4: operational registers, and those of a port.
COMMAND, STATUS, COMMAND_RING, CONTEXTS, CONFIGURE = 0x00, 0x04, 0x18, 0x30, 0x38
PORT, PORT_SIZE = 0x400, 0x10
RUN, RESET = 1 << 0, 1 << 1
HALTED = 1 << 0
PORT_CONNECTED, PORT_ENABLED, PORT_POWER, PORT_RESET = 1 << 0, 1 << 1, 1 << 9, 1 << 4
PORT_SPEED_SHIFT = 10
# 5.5.2: the first interrupter.
SEGMENTS, SEGMENT_TABLE, DEQUEUE = 0x28, 0x30, 0x38
# 6.2.3: an endpoint for control transfers, with packets of 64 or 8 bytes.
CONTROL = 4 << 3
SUCCESS, SHORT_PACKET = 1, 13


class Trb(IntEnum):
    """Types of a TRB (xHCI 6.4.6)."""

    SETUP = 2
    DATA = 3
    STATUS = 4
    ENABLE_SLOT = 9
    ADDRESS_DEVICE = 11
    TRANSFER_EVENT = 32
    COMMAND_COMPLETION = 33


# 6.4.1.2: bits of a control word.
CYCLE, IOC, IMMEDIATE, IN = 1 << 0, 1 << 5, 1 << 6, 1 << 16
IN_STAGE, OUT_STAGE = 3 << 16, 2 << 16


class XhciFailed(Exception):
    """A command or a transfer ended with another code than success.

    Attributes:
        code: of its completion (xHCI 6.4.5).
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"completion code {code}")
        self.code = code


@dataclass
class _Ring:
    """TRBs for the controller, from the first on."""

    base: int
    next: int = 0


@dataclass
class Xhci:
    """A controller whose rings and contexts are in `memory`."""

    function: Function
    memory: GuestMemory
    _slot: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._base = self.function.map_bars()[0].address
        qtest = self.function.qtest
        self._operational = self._base + qtest.readb(self._base)
        self._doorbells = self._base + qtest.readl(self._base + DOORBELLS)
        self._runtime = self._base + qtest.readl(self._base + RUNTIME)

    def start(self) -> None:
        """Reset it, and address the device behind it (xHCI 4.2 and 4.3).

        Raises:
            PciError: no device is there.
            XhciFailed: a command failed.
        """
        qtest, at = self.function.qtest, self._operational
        qtest.writel(at + COMMAND, 0)
        qtest.writel(at + COMMAND, RESET)
        poll_until(
            lambda: not qtest.readl(at + COMMAND) & RESET or None, ANSWER_S, lambda: "a reset"
        )
        self._commands, self._transfers = self._ring(), self._ring()
        self._events, self._event = self.memory.take(PAGE, PAGE), 0
        table = self.memory.put(struct.pack("<QIxxxx", self._events, PAGE // TRB))
        self._contexts = self.memory.take(PAGE, PAGE)
        qtest.writel(at + CONFIGURE, 1)
        qtest.writeq(at + CONTEXTS, self._contexts)
        qtest.writeq(at + COMMAND_RING, self._commands.base | CYCLE)
        qtest.writel(self._runtime + SEGMENTS, 1)
        qtest.writeq(self._runtime + DEQUEUE, self._events)
        qtest.writeq(self._runtime + SEGMENT_TABLE, table)
        qtest.writel(at + COMMAND, RUN)
        port = self._connected()
        self._slot = self._run(Trb.ENABLE_SLOT) >> 24
        self._address(port)

    def _ring(self) -> _Ring:
        return _Ring(self.memory.take(PAGE, PAGE))

    def _connected(self) -> int:
        """Reset the port that has a device; returns its number."""
        qtest = self.function.qtest
        for port in range(1, (qtest.readl(self._base + PARAMETERS_1) >> 24) + 1):
            if self._status(port) & PORT_CONNECTED:
                break
        else:
            raise PciError(f"no device is behind {self.function}")
        qtest.writel(self._port(port), PORT_POWER | PORT_RESET)
        poll_until(
            lambda: self._status(port) & PORT_ENABLED or None, ANSWER_S, lambda: "a port's reset"
        )
        return port

    def _status(self, port: int) -> int:
        return self.function.qtest.readl(self._port(port))

    def _port(self, number: int) -> int:
        return self._operational + PORT + PORT_SIZE * (number - 1)

    def _address(self, port: int) -> None:
        speed = self._status(port) >> PORT_SPEED_SHIFT & 0xF
        device = struct.pack("<IIII16x", 1 << 27 | speed << 20, port << 16, 0, 0)
        dequeue = self._transfers.base | CYCLE
        endpoint = struct.pack("<IIQI12x", 0, CONTROL | 64 << 16 | 3 << 1, dequeue, 8)
        control = struct.pack("<II24x", 0, 0b11)
        given = self.memory.take(PAGE, PAGE)
        self.memory.write(given, control + device + endpoint)
        kept = self.memory.take(PAGE, PAGE)
        self.memory.write(self._contexts + 8 * self._slot, struct.pack("<Q", kept))
        self._run(Trb.ADDRESS_DEVICE, given)

    def _add(self, ring: _Ring, parameter: int, status: int, control: int) -> int:
        if ring.next == ENTRIES:
            raise PciError("a ring is used up: start anew")
        at, ring.next = ring.base + TRB * ring.next, ring.next + 1
        self.memory.write(at, struct.pack("<QII", parameter, status, control | CYCLE))
        return at

    def _run(self, kind: Trb, parameter: int = 0) -> int:
        """Run a command; returns the last word of its event."""
        at = self._add(self._commands, parameter, 0, kind << 10 | self._slot << 24)
        self.function.qtest.writel(self._doorbells, 0)
        return self._wait(Trb.COMMAND_COMPLETION, at)

    def _wait(self, kind: Trb, of: int) -> int:
        return poll_until(
            lambda: self._take(kind, of), ANSWER_S, lambda: f"{kind.name} from the controller"
        )

    def _take(self, kind: Trb, of: int) -> int | None:
        """Take events up to the one of this kind and TRB; returns its last word, if it is there."""
        while True:
            raw = self.memory.read(self._events + TRB * self._event, TRB)
            pointer, status, control = struct.unpack("<QII", raw)
            if not control & CYCLE:
                return None
            self._event += 1
            if control >> 10 & 0x3F == kind and pointer == of:
                if status >> 24 not in (SUCCESS, SHORT_PACKET):
                    raise XhciFailed(status >> 24)
                return int(control)

    def transfer(self, setup: bytes, address: int, size: int) -> None:
        """Do a control transfer (USB 5.5).

        Args:
            setup: its packet of 8 bytes.
            address, size: of the data.
        Raises:
            XhciFailed: it failed.
            TimeoutError: it doesn't end.
        """
        self._wait(Trb.TRANSFER_EVENT, self.begin(setup, address, size))

    def ended(self, transfer: int) -> bool:
        """Whether what `begin` returned has ended by now; raises XhciFailed if it failed."""
        return self._take(Trb.TRANSFER_EVENT, transfer) is not None

    def begin(self, setup: bytes, address: int, size: int) -> int:
        """Begin a control transfer; returns what its event is to name."""
        reads = bool(setup[0] & 0x80)
        (packet,) = struct.unpack("<Q", setup)
        stage = IN_STAGE if reads else OUT_STAGE
        self._add(self._transfers, packet, 8, IMMEDIATE | Trb.SETUP << 10 | stage)
        self._add(self._transfers, address, size, Trb.DATA << 10 | (IN if reads else 0))
        last = self._add(self._transfers, 0, 0, IOC | Trb.STATUS << 10 | (0 if reads else IN))
        self.function.qtest.writel(self._doorbells + 4 * self._slot, 1)
        return last
