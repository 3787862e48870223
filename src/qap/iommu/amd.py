"""The AMD IOMMU, host translation only.

"AMD" in a comment is the AMD I/O Virtualization Technology (IOMMU) Specification, 48882,
revision 3.00.
"""

import struct
from collections.abc import Sequence

from qap.host.wait import poll_until
from qap.hw.pci import Bdf, Function
from qap.iommu.driver import (
    FaultReason,
    IommuError,
    IommuFault,
    blocks,
    sized_address,
    source_bdf,
    source_id,
)
from qap.iommu.page_table import Format
from qap.iommu.table_driver import ENTRY, CommandRing, Entry, PagedIommu, PageTableDomain
from qap.machine import qtest_command as command
from qap.machine.guest_memory import PAGE, GuestMemory

# AMD 3.2: the capability of the IOMMU's PCI function, and offsets in it.
VENDOR_ID = 0x1022
CAPABILITY_SECURE_DEVICE = 0x0F
CAPABILITY_NP_CACHE = 1 << 26
BASE_ADDRESS_LOW = 0x04
BASE_ADDRESS_HIGH = 0x08
BASE_ADDRESS_ENABLE = 1 << 0
BASE_ADDRESS_MASK = ~0x3FFF

# AMD 3.4: registers.
DEVICE_TABLE_BASE = 0x00
COMMAND_BUFFER_BASE = 0x08
EVENT_LOG_BASE = 0x10
CONTROL = 0x18
CONTROL_IOMMU_EN = 1 << 0
CONTROL_EVENT_LOG_EN = 1 << 2
CONTROL_EVENT_INT_EN = 1 << 3
CONTROL_CMD_BUF_EN = 1 << 12
CONTROL_ENABLE = CONTROL_IOMMU_EN | CONTROL_EVENT_LOG_EN | CONTROL_CMD_BUF_EN
COMMAND_BUFFER_HEAD = 0x2000
COMMAND_BUFFER_TAIL = 0x2008
EVENT_LOG_HEAD = 0x2010
EVENT_LOG_TAIL = 0x2018
STATUS = 0x2020
STATUS_EVENT_OVERFLOW = 1 << 0
STATUS_EVENT_LOG_INT = 1 << 1
STATUS_EVENT_LOG_RUN = 1 << 3
# 2**8 entries of 16 bytes, a page, for the command buffer as for the event log.
LENGTH_PAGE = 8 << 56

# AMD 2.2.2.1: a device table entry, of 32 bytes; a device's ID is its index.
DEVICES_PER_BUS = 256
BUSES = 16
DTE = struct.Struct("<QQQQ")
DTE_VALID = 1 << 0
DTE_TRANSLATION_VALID = 1 << 1
DTE_MODE = 9
DTE_READABLE = 1 << 61
DTE_WRITABLE = 1 << 62
BLOCKED = DTE.pack(DTE_VALID | DTE_TRANSLATION_VALID, 0, 0, 0)

# AMD 2.2.3: page table entries.
LEVELS = 4
FORMAT = Format(present=1 << 0, readable=DTE_READABLE, writable=DTE_WRITABLE, next_level=9)

# AMD 2.4: commands by their code.
CODE = 60
COMPLETION_WAIT = 0x1 << CODE
COMPLETION_WAIT_STORE = 1 << 0
INVALIDATE_DEVTAB_ENTRY = 0x2 << CODE
INVALIDATE_IOMMU_PAGES = 0x3 << CODE
INVALIDATE_ALL_PAGES = 0x7FFF_FFFF_FFFF_F000
INVALIDATE_SIZE = 1 << 0
INVALIDATE_PDE = 1 << 1
INVALIDATE_IOTLB_PAGES = 0x4 << CODE
INVALIDATE_IOMMU_ALL = 0x8 << CODE

# AMD 2.5: events by their code, and the flags of an IO_PAGE_FAULT (2.5.3).
ILLEGAL_DEV_TABLE_ENTRY = 0x1
IO_PAGE_FAULT = 0x2
ILLEGAL_COMMAND_ERROR = 0x5
EVENT_PRESENT = 1 << 52
EVENT_WRITE = 1 << 53

ANSWER_S = 5.0


class Amd(PagedIommu):
    """QEMU's amd-iommu.

    Its event log holds 255 faults, and takes no more until `faults` has read them.

    Args:
        function: its PCI function; see `is_amd`.
        memory: for its tables; the device table takes 8 KiB for each bus.
        buses: number of buses in the device table, up to 256. By the specification devices
            on other buses reach nothing; QEMU reads their entries behind the table.
    """

    def __init__(self, function: Function, memory: GuestMemory, buses: int = BUSES) -> None:
        self._buses = buses
        at = function.capability(CAPABILITY_SECURE_DEVICE).offset
        header = function.config_read(at, 4)
        low = function.config_read(at + BASE_ADDRESS_LOW, 4)
        function.config_write(at + BASE_ADDRESS_LOW, 4, low | BASE_ADDRESS_ENABLE)
        high = function.config_read(at + BASE_ADDRESS_HIGH, 4)
        self._base = high << 32 | low & BASE_ADDRESS_MASK
        absence = bool(header & CAPABILITY_NP_CACHE)
        super().__init__(memory, FORMAT, LEVELS, large=True, caches_absence=absence)
        # AMD 2.2.2: a device whose entry is all zeros reaches everything.
        self._table_size = buses * DEVICES_PER_BUS * DTE.size
        self._table = memory.physical(memory.take(self._table_size, PAGE))
        part = BLOCKED * DEVICES_PER_BUS
        places = range(self._table, self._table + self._table_size, len(part))
        self.qtest.run_all([command.b64write(place, part) for place in places])
        self._commands = CommandRing(self._pages.take())
        self._events = self._pages.take()
        self._stored = self._pages.take()
        self._waits = 0

    def enable(self) -> None:
        self.disable()
        self._commands.rewind()
        registers = {
            DEVICE_TABLE_BASE: self._table | self._table_size // PAGE - 1,
            COMMAND_BUFFER_BASE: self._commands.address | LENGTH_PAGE,
            EVENT_LOG_BASE: self._events | LENGTH_PAGE,
            COMMAND_BUFFER_HEAD: 0,
            COMMAND_BUFFER_TAIL: 0,
            EVENT_LOG_HEAD: 0,
            EVENT_LOG_TAIL: 0,
            STATUS: STATUS_EVENT_OVERFLOW | STATUS_EVENT_LOG_INT,
            CONTROL: CONTROL_ENABLE,
        }
        self.qtest.run_all(
            [command.writeq(self._base + at, value) for at, value in registers.items()]
        )
        self._enabled = True
        self.flush()

    def disable(self) -> None:
        self._enabled = False
        self.qtest.writeq(self._base + CONTROL, 0)

    def flush(self) -> None:
        self._submit([(INVALIDATE_IOMMU_ALL, 0)])

    def invalidate_device_pages(self, bdf: Bdf) -> None:
        """Drop all pages in a device's own TLB, and in what stands for one (AMD 2.4.4)."""
        command_word = INVALIDATE_IOTLB_PAGES | source_id(bdf)
        self._submit([(command_word, INVALIDATE_ALL_PAGES | INVALIDATE_SIZE)])

    def invalidate_pages(self, domain: int, iova: int, order: int = 0) -> None:
        """Drop 2**order pages of a domain from an IOVA on (AMD 2.4.3)."""
        address, larger = sized_address(iova, order)
        what = address | INVALIDATE_PDE | (INVALIDATE_SIZE if larger else 0)
        self._submit([(INVALIDATE_IOMMU_PAGES | domain << 32, what)])

    def faults(self) -> list[IommuFault]:
        asked = (EVENT_LOG_HEAD, EVENT_LOG_TAIL, STATUS)
        reads = [command.readq(self._base + at) for at in asked]
        head, tail, status = self.qtest.run_all(reads)
        faults = []
        while head != tail:
            low, high = ENTRY.unpack(self.qtest.read(self._events + head, ENTRY.size))
            faults.append(fault(low, high))
            head = (head + ENTRY.size) % PAGE
        self.qtest.writeq(self._base + EVENT_LOG_HEAD, head)
        told = STATUS_EVENT_LOG_INT | status & STATUS_EVENT_OVERFLOW
        self.qtest.writeq(self._base + STATUS, told)
        if status & STATUS_EVENT_OVERFLOW:
            # AMD 2.5.2: what makes it log again.
            self.qtest.writeq(self._base + CONTROL, CONTROL_ENABLE)
        return faults

    def _set_entry(self, bdf: Bdf, domain: PageTableDomain | None) -> None:
        if bdf.bus >= self._buses:
            raise IommuError(f"{bdf} is on none of the device table's {self._buses} buses")
        raw = BLOCKED
        if domain:
            low = DTE_VALID | DTE_TRANSLATION_VALID | DTE_READABLE | DTE_WRITABLE
            low |= domain.table.root | self._levels << DTE_MODE
            raw = DTE.pack(low, domain.id, 0, 0)
        self.qtest.write(self._table + DTE.size * source_id(bdf), raw)

    def _invalidate_entry(self, bdf: Bdf, domain: PageTableDomain, *, absent: bool) -> None:
        everything = INVALIDATE_ALL_PAGES | INVALIDATE_PDE | INVALIDATE_SIZE
        commands = [(INVALIDATE_DEVTAB_ENTRY | source_id(bdf), 0)]
        self._submit([*commands, (INVALIDATE_IOMMU_PAGES | domain.id << 32, everything)])

    def _invalidate(self, bdf: Bdf, domain: PageTableDomain, iova: int, size: int) -> None:
        commands = []
        for start, order in blocks(iova, size, 9 * self._levels):
            address, larger = sized_address(start, order)
            what = address | INVALIDATE_PDE | (INVALIDATE_SIZE if larger else 0)
            commands.append((INVALIDATE_IOMMU_PAGES | domain.id << 32, what))
        self._submit(commands)

    def _submit(self, commands: Sequence[Entry]) -> None:
        """Submit commands and wait until they are executed (AMD 2.4.1)."""
        self._waits += 1
        wait = (COMPLETION_WAIT | COMPLETION_WAIT_STORE | self._stored, self._waits)
        writes = self._commands.add([*commands, wait])
        tail = command.writeq(self._base + COMMAND_BUFFER_TAIL, self._commands.tail)
        self.qtest.run_all([*writes, tail])

        def executed() -> bool | None:
            return True if self.qtest.readq(self._stored) == self._waits else None

        poll_until(executed, ANSWER_S, lambda: "the AMD IOMMU to execute its commands")


def is_amd(function: Function) -> bool:
    """Whether a PCI function is an AMD IOMMU."""
    if function.vendor_id != VENDOR_ID:
        return False
    return any(capability.id == CAPABILITY_SECURE_DEVICE for capability in function.capabilities())


def fault(low: int, high: int) -> IommuFault:
    """An event of the log, from its two words (AMD 2.5)."""
    code = low >> CODE
    reason, write = FaultReason.UNKNOWN, None
    if code == ILLEGAL_DEV_TABLE_ENTRY:
        reason = FaultReason.DOMAIN
    elif code == IO_PAGE_FAULT:
        reason = FaultReason.MAPPING
        if low & EVENT_PRESENT:
            write = bool(low & EVENT_WRITE)
    return IommuFault(source_bdf(low & 0xFFFF), high, reason, write, code)
