"""VMware's paravirtual SCSI adapter, with one page for each of its rings.

The names are those of Linux's drivers/scsi/vmw_pvscsi.h.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from qap.host.wait import poll_until
from qap.hw.pci import Function
from qap.machine.guest_memory import GuestMemory

VENDOR_ID, DEVICE_ID = 0x15AD, 0x07C0
ANSWER_S = 20.0
PAGE = 4096
COMMAND, COMMAND_DATA, KICK_NON_RW_IO = 0x0000, 0x0004, 0x3014
# PVSCSIRingsState
REQUESTS_PRODUCED, COMPLETIONS_PRODUCED = 0, 12
REQUEST = struct.Struct("<QQQQII16sB8sBBBB59x")
COMPLETION = struct.Struct("<QQIHH8x")
PAGES_OF_A_RING = 32
TAG_SIMPLE = 0x20


class PvscsiCommand(IntEnum):
    """What a driver writes to COMMAND."""

    ADAPTER_RESET = 1
    SETUP_RINGS = 3
    RESET_BUS = 4
    RESET_DEVICE = 5
    ABORT_CMD = 6


class RequestFlag(IntFlag):
    """PVSCSI_FLAG_CMD_: which way a request moves its data, and if its address is a list's."""

    WITH_SG_LIST = 1 << 0
    DIR_NONE = 1 << 2
    DIR_TOHOST = 1 << 3
    DIR_TODEVICE = 1 << 4


class HostStatus(IntEnum):
    """BTSTAT_: how the adapter ended a request."""

    SUCCESS = 0x00
    DATARUN = 0x12
    BADMSG = 0x1D
    BUSRESET = 0x25
    ABORTQUEUE = 0x26


@dataclass(frozen=True)
class Completion:
    """What the adapter wrote of a request.

    Attributes:
        context: as the request had it.
        host_status: a HostStatus, or another of Linux's.
        scsi_status: of SAM-5, 5.3.1.
    """

    context: int
    host_status: int
    scsi_status: int


@dataclass
class Pvscsi:
    """The adapter, whose rings are in `memory`; requests are for target 0."""

    function: Function
    memory: GuestMemory
    _registers: int = field(init=False)
    _state: int = field(init=False)
    _requests: int = field(init=False)
    _completions: int = field(init=False)
    _made: int = field(init=False)
    _taken: int = field(init=False)

    def __post_init__(self) -> None:
        self._registers = self.function.map_bars()[0].address

    def start(self) -> None:
        """Reset the adapter, and give it rings."""
        self.command(PvscsiCommand.ADAPTER_RESET)
        pages = [self.memory.take(PAGE, PAGE) for _ in range(3)]
        self._state, self._requests, self._completions = pages
        self._made = self._taken = 0
        state, *rings = (page // PAGE for page in pages)
        unused = [0] * (PAGES_OF_A_RING - 1)
        words = [state, *(word for ring in rings for word in (ring, *unused))]
        setup = struct.pack(f"<II{len(words)}Q", 1, 1, *words)
        self.command(PvscsiCommand.SETUP_RINGS, setup)

    def command(self, command: PvscsiCommand, data: bytes = b"") -> None:
        """Have the adapter do a command at once, with its descriptor."""
        qtest = self.function.qtest
        qtest.writel(self._registers + COMMAND, command)
        for (word,) in struct.iter_unpack("<I", data):
            qtest.writel(self._registers + COMMAND_DATA, word)

    def begin(self, cdb: bytes, flags: RequestFlag, place: int, size: int) -> int:
        """Issue a request, and don't wait for it; returns its context.

        Args:
            cdb: at most 16 bytes.
            place: address of its data, or of the list of `put_list`.
            size: of its data, in bytes.
        """
        context = self._made + 1
        lun, bus, target, cpu = bytes(8), 0, 0, 0
        data = context, place, size, 0, 0, flags
        request = REQUEST.pack(*data, cdb, len(cdb), lun, TAG_SIMPLE, bus, target, cpu)
        slot = self._made % (PAGE // REQUEST.size)
        self._made += 1
        self.memory.write_all(
            [
                (self._requests + slot * REQUEST.size, request),
                (self._state + REQUESTS_PRODUCED, struct.pack("<I", self._made)),
            ]
        )
        self.function.qtest.writel(self._registers + KICK_NON_RW_IO, 0)
        return context

    def put_list(self, *elements: tuple[int, int]) -> int:
        """A list of addresses and sizes, for a request; returns its address."""
        return self.memory.put(b"".join(struct.pack("<QII", *each, 0) for each in elements))

    def abort(self, context: int) -> None:
        """End a request."""
        self.command(PvscsiCommand.ABORT_CMD, struct.pack("<QII", context, 0, 0))

    def finish(self) -> Completion:
        """Wait for the next completion.

        Raises:
            TimeoutError: there is none.
        """
        poll_until(self._has_ended, ANSWER_S, lambda: "the next completion of a PVSCSI request")
        slot = self._taken % (PAGE // COMPLETION.size)
        self._taken += 1
        found = self.memory.read(self._completions + slot * COMPLETION.size, COMPLETION.size)
        context, _, _, host_status, scsi_status = COMPLETION.unpack(found)
        return Completion(context, host_status, scsi_status)

    def _has_ended(self) -> bool | None:
        produced = self.memory.read(self._state + COMPLETIONS_PRODUCED, 4)
        return int.from_bytes(produced, "little") > self._taken or None
