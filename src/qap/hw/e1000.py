"""Network controllers of Intel's 82574 and 82576, with one ring in each direction.

"82574" in a docstring is Intel's datasheet 317694, "82576" its datasheet 320961.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from qap.host.wait import poll_until
from qap.hw.pci import Function
from qap.machine.guest_memory import GuestMemory

VENDOR_ID = 0x8086
ANSWER_S = 20.0
ENTRIES, ENTRY = 16, 16
ROOM = 2048

# 82574, chapter 10; the offsets of a ring's registers are the 82576's, too.
CTRL, STATUS, MDIC, RCTL, TCTL = 0x0000, 0x0008, 0x0020, 0x0100, 0x0400
BASE, LENGTH, SPLIT, HEAD, TAIL, QUEUE_CONTROL = 0x00, 0x08, 0x0C, 0x10, 0x18, 0x28
CTRL_LINK_UP, CTRL_RESET = 1 << 6, 1 << 26
LINK_UP = 1 << 1
# 82574 10.2.2.7: a write of register 0 of the PHY, which restarts auto-negotiation.
NEGOTIATE = 1 << 26 | 1 << 21 | 0x1200
ENABLE = 1 << 1
RCTL_PROMISCUOUS = 1 << 3 | 1 << 4
RCTL_LOOPBACK = 1 << 6
RCTL_BROADCAST = 1 << 15
QUEUE_ENABLE = 1 << 25

# 82574 7.2.10: bits of the third word of a descriptor.
END, ADD_FCS, REPORT = 1 << 24, 1 << 25, 1 << 27
# 82576 7.2.2.3: an advanced data descriptor.
ADVANCED = 1 << 29 | 3 << 20
PAYLOAD_SHIFT = 14
DONE = 1 << 0


@dataclass(frozen=True)
class NicModel:
    """What differs.

    Attributes:
        device_id: of the PCI function.
        receive, transmit: where the registers of the first rings are.
        advanced: its descriptors are the 82576's.
        done: at which byte of a receive descriptor it says that it is done.
    """

    device_id: int
    receive: int
    transmit: int
    advanced: bool
    done: int


E1000E = NicModel(0x10D3, 0x2800, 0x3800, advanced=False, done=12)
IGB = NicModel(0x10C9, 0xC000, 0xE000, advanced=True, done=8)


@dataclass
class Nic:
    """A controller that receives what it sends; its rings are in `memory`."""

    function: Function
    memory: GuestMemory
    model: NicModel
    transmits: int = field(init=False)
    receives: int = field(init=False)

    def __post_init__(self) -> None:
        self._registers = self.function.map_bars()[0].address
        self.transmits = self.memory.take(4096, 4096)
        self.receives = self.memory.take(4096, 4096)
        self._sent = self._received = 0

    def start(self) -> None:
        """Reset it, and turn both rings and the loopback on."""
        self._set(CTRL, CTRL_RESET)
        self._set(CTRL, CTRL_LINK_UP)
        if not self._link_up():
            self._set(MDIC, NEGOTIATE)
            poll_until(lambda: self._link_up() or None, ANSWER_S, lambda: "the link")
        self._sent = self._received = 0
        for ring, at in (
            (self.model.transmit, self.transmits),
            (self.model.receive, self.receives),
        ):
            self.memory.write(at, bytes(ENTRIES * ENTRY))
            self._set(ring + BASE, at & 0xFFFF_FFFF)
            self._set(ring + BASE + 4, at >> 32)
            self._set(ring + LENGTH, ENTRIES * ENTRY)
            if self.model.advanced:
                self._set(ring + QUEUE_CONTROL, QUEUE_ENABLE)
        if self.model.advanced:
            self._set(self.model.receive + SPLIT, ROOM >> 10 | 1 << 25)
        self._set(RCTL, ENABLE | RCTL_PROMISCUOUS | RCTL_LOOPBACK | RCTL_BROADCAST)
        self._set(TCTL, ENABLE)

    def _set(self, register: int, value: int) -> None:
        self.function.qtest.writel(self._registers + register, value)

    def _link_up(self) -> bool:
        return bool(self.function.qtest.readl(self._registers + STATUS) & LINK_UP)

    def offer(self, address: int) -> int:
        """Offer a buffer of 2 KiB for a frame; returns the number of its descriptor."""
        index, self._received = self._received, self._received + 1
        self.memory.write(self.receives + index % ENTRIES * ENTRY, struct.pack("<QQ", address, 0))
        self._set(self.model.receive + TAIL, self._received % ENTRIES)
        return index

    def took(self, index: int) -> bool:
        """Whether a frame is in this buffer."""
        at = self.receives + index % ENTRIES * ENTRY + self.model.done
        return bool(self.memory.read(at, 1)[0] & DONE)

    def wait_frame(self, index: int) -> None:
        """Wait for a frame in this buffer.

        Raises:
            TimeoutError: none comes.
        """
        poll_until(lambda: self.took(index) or None, ANSWER_S, lambda: "a frame")

    def send(self, pieces: Sequence[tuple[int, int]], *, last: bool = True) -> int:
        """Send a frame, or its first pieces; returns the number of the last descriptor.

        Args:
            pieces: address and size of each.
            last: whether the frame ends here.
        """
        total = sum(size for _, size in pieces)
        for number, (address, size) in enumerate(pieces, 1):
            flags = ADD_FCS | REPORT | size | (ADVANCED if self.model.advanced else 0)
            flags |= END if last and number == len(pieces) else 0
            upper = total << PAYLOAD_SHIFT if self.model.advanced else 0
            entry = struct.pack("<QII", address, flags, upper)
            self.memory.write(self.transmits + self._sent % ENTRIES * ENTRY, entry)
            self._sent += 1
        self._set(self.model.transmit + TAIL, self._sent % ENTRIES)
        return self._sent - 1

    def wait_sent(self, index: int) -> None:
        """Wait until it is done with a descriptor.

        Raises:
            TimeoutError: it never is.
        """
        at = self.transmits + index % ENTRIES * ENTRY + 12
        poll_until(
            lambda: self.memory.read(at, 1)[0] & DONE or None, ANSWER_S, lambda: "a frame to go"
        )
