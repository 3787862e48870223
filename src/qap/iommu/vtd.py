"""VT-d: Intel's IOMMU, in legacy mode, with queued invalidation.

"VT-d" in a comment is the Intel Virtualization Technology for Directed I/O Architecture
Specification, revision 5.10.
"""

from collections.abc import Iterable, Sequence

from qap.host.wait import poll_until
from qap.hw.pci import Bdf
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
from qap.iommu.table_driver import CommandRing, Entry, PagedIommu, PageTableDomain
from qap.machine import qtest_command as command
from qap.machine.guest_memory import GuestMemory

# Address of the registers in QEMU; a guest's kernel reads it from ACPI's DMAR table.
BASE = 0xFED9_0000

# VT-d 11.4: registers, each with the bits in use here.
CAP_REG = 0x08
CAP_CM = 1 << 7
CAP_SAGAW = 8
CAP_SAGAW_3_LEVELS = 1 << 1
CAP_SAGAW_4_LEVELS = 1 << 2
CAP_FRO = 24
CAP_SSLPS_2M = 1 << 34
CAP_PSI = 1 << 39
CAP_NFR = 40
CAP_MAMV = 48
ECAP_REG = 0x10
ECAP_QI = 1 << 1
ECAP_DT = 1 << 2
GCMD_REG = 0x18
GSTS_REG = 0x1C
TRANSLATION_ENABLE = 1 << 31
ROOT_TABLE_POINTER = 1 << 30
QUEUED_INVALIDATION_ENABLE = 1 << 26
# Bits that a write to GCMD_REG must preserve; the others are one-shot commands.
GSTS_LASTING = 0x96FF_FFFF
RTADDR_REG = 0x20
FSTS_REG = 0x34
FSTS_PFO = 1 << 0
FSTS_IQE = 1 << 4
IQT_REG = 0x88
IQA_REG = 0x90

# VT-d 11.4.7.6: the fields of a fault recording register, by its 64-bit halves.
FRCD_SIZE = 16
FRCD_FI = ~0xFFF
FRCD_SID = 0xFFFF
FRCD_FR = 32
FRCD_T1 = 1 << 62
FRCD_F = 1 << 63

# VT-d 7.1.3: fault conditions of legacy mode.
REASONS = {
    0x1: FaultReason.DOMAIN,
    0x2: FaultReason.DOMAIN,
    0x4: FaultReason.MAPPING,
    0x5: FaultReason.MAPPING,
    0x6: FaultReason.MAPPING,
}

# VT-d 9.1 and 9.3: root and context entries, of 16 bytes each.
PRESENT = 1 << 0
CONTEXT_TT_DEVICE_TLB = 0b01 << 2
CONTEXT_DID = 8

# VT-d 9.8: second-stage paging entries.
FORMAT = Format(present=0, readable=1 << 0, writable=1 << 1, large=1 << 7)

# VT-d 6.5.2: types of descriptors, with the granularity if there is one.
CONTEXT_CACHE = 0x1
CONTEXT_CACHE_GLOBAL = CONTEXT_CACHE | 0b01 << 4
CONTEXT_CACHE_DEVICE = CONTEXT_CACHE | 0b11 << 4
IOTLB = 0x2
IOTLB_GLOBAL = IOTLB | 0b01 << 4
IOTLB_DOMAIN = IOTLB | 0b10 << 4
IOTLB_PAGE = IOTLB | 0b11 << 4
IOTLB_DRAIN = 0b11 << 6
DEVICE_TLB = 0x3
WAIT = 0x5
WAIT_STATUS_WRITE = 1 << 5

ANSWER_S = 5.0


class Vtd(PagedIommu):
    """QEMU's intel-iommu.

    It has a limited number of registers for faults, in QEMU only one. A second fault of the
    same device is dropped while the first is recorded.

    Args:
        memory: for its tables.
        base: address of its registers.
    Raises:
        IommuError: there is no VT-d, or it lacks page tables or queued invalidation.
    """

    def __init__(self, memory: GuestMemory, base: int = BASE) -> None:
        self._base = base
        registers = [command.readq(base + CAP_REG), command.readq(base + ECAP_REG)]
        self._cap, self._ecap = memory.qtest.run_all(registers)
        sagaw = self._cap >> CAP_SAGAW
        if not sagaw & (CAP_SAGAW_3_LEVELS | CAP_SAGAW_4_LEVELS) or not self._ecap & ECAP_QI:
            raise IommuError(f"no VT-d that translates is at {base:#x}")
        super().__init__(
            memory,
            FORMAT,
            4 if sagaw & CAP_SAGAW_4_LEVELS else 3,
            large=bool(self._cap & CAP_SSLPS_2M),
            caches_absence=bool(self._cap & CAP_CM),
        )
        self._root = self._pages.take()
        self._contexts: dict[int, int] = {}
        self._queue = CommandRing(self._pages.take())
        self._status = self._pages.take()
        self._waits = 0
        self._device_tlbs: set[Bdf] = set()

    def enable(self) -> None:
        self.disable()
        self._command(QUEUED_INVALIDATION_ENABLE, on=False)
        self._queue.rewind()
        registers = {RTADDR_REG: self._root, IQA_REG: self._queue.address, IQT_REG: 0}
        self.qtest.run_all(
            [command.writeq(self._base + at, value) for at, value in registers.items()]
        )
        self._command(ROOT_TABLE_POINTER, on=True)
        self._command(QUEUED_INVALIDATION_ENABLE, on=True)
        self.flush()
        self._command(TRANSLATION_ENABLE, on=True)
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False
        self._command(TRANSLATION_ENABLE, on=False)

    def use_device_tlb(self, bdf: Bdf) -> None:
        """Let a device cache translations itself; call `enable_ats` next (VT-d 4.5.1).

        Raises:
            IommuError: VT-d does not support device TLBs (device-iotlb=off).
        """
        if not self._ecap & ECAP_DT:
            raise IommuError("this VT-d knows no device TLBs")
        self._device_tlbs.add(bdf)
        if bdf in self._domains:
            self._link(bdf, self._unlink(bdf))

    def flush(self) -> None:
        self._submit([(CONTEXT_CACHE_GLOBAL, 0)])
        self._submit([(IOTLB_GLOBAL | IOTLB_DRAIN, 0)])
        for bdf in self._device_tlbs:
            self._submit(_device_tlb(bdf, [(0, self._all_pages)]))

    def faults(self) -> list[IommuFault]:
        first = self._base + 16 * (self._cap >> CAP_FRO & 0x3FF)
        number = (self._cap >> CAP_NFR & 0xFF) + 1
        places = [first + FRCD_SIZE * index for index in range(number)]
        halves = self.qtest.run_all(
            [command.readq(at + half) for at in places for half in (0, FRCD_SIZE // 2)]
        )
        faults, clear = [], []
        for place, low, high in zip(places, halves[::2], halves[1::2], strict=True):
            if high & FRCD_F:
                faults.append(_fault(low, high))
                clear.append(command.writel(place + 12, FRCD_F >> 32))
        clear.append(command.writel(self._base + FSTS_REG, FSTS_PFO))
        self.qtest.run_all(clear)
        return faults

    @property
    def _all_pages(self) -> int:
        return 9 * self._levels

    def _set_entry(self, bdf: Bdf, domain: PageTableDomain | None) -> None:
        if bdf.bus not in self._contexts:
            context = self._pages.take()
            self._contexts[bdf.bus] = context
            self.qtest.writeq(self._root + 16 * bdf.bus, context | PRESENT)
        at = self._contexts[bdf.bus] + 16 * (source_id(bdf) & 0xFF)
        low = high = 0
        if domain:
            kind = CONTEXT_TT_DEVICE_TLB if bdf in self._device_tlbs else 0
            low = domain.table.root | kind | PRESENT
            high = domain.id << CONTEXT_DID | self._levels - 2
        # The half with the present bit is written last to set the entry, first to clear it.
        halves = [command.writeq(at + 8, high), command.writeq(at, low)]
        self.qtest.run_all(halves if domain else halves[::-1])

    def _invalidate_entry(self, bdf: Bdf, domain: PageTableDomain, *, absent: bool) -> None:
        # VT-d 6.2.2.1: entries that are not present are cached with domain 0.
        number = 0 if absent else domain.id
        self._submit([(CONTEXT_CACHE_DEVICE | number << 16 | source_id(bdf) << 32, 0)])
        self._submit([(IOTLB_DOMAIN | IOTLB_DRAIN | domain.id << 16, 0)])
        if bdf in self._device_tlbs and not absent:
            self._submit(_device_tlb(bdf, [(0, self._all_pages)]))

    def _invalidate(self, bdf: Bdf, domain: PageTableDomain, iova: int, size: int) -> None:
        number = domain.id << 16 | IOTLB_DRAIN
        parts = list(blocks(iova, size, self._cap >> CAP_MAMV & 0x3F))
        if self._cap & CAP_PSI:
            self._submit([(IOTLB_PAGE | number, address | order) for address, order in parts])
        else:
            self._submit([(IOTLB_DOMAIN | number, 0)])
        if bdf in self._device_tlbs:
            self._submit(_device_tlb(bdf, parts))

    def _submit(self, descriptors: Sequence[Entry]) -> None:
        """Submit descriptors and wait until they are executed (VT-d 6.5.2.9)."""
        self._waits = (self._waits + 1) % (1 << 32)
        wait = (WAIT | WAIT_STATUS_WRITE | self._waits << 32, self._status)
        writes = self._queue.add([*descriptors, wait])
        self.qtest.run_all([*writes, command.writeq(self._base + IQT_REG, self._queue.tail)])
        poll_until(self._executed, ANSWER_S, lambda: "VT-d to invalidate")

    def _executed(self) -> bool | None:
        asked = [command.readl(self._status), command.readl(self._base + FSTS_REG)]
        status, faults = self.qtest.run_all(asked)
        if faults & FSTS_IQE:
            raise IommuError("VT-d refused an invalidation descriptor (FSTS_REG.IQE)")
        return True if status == self._waits else None

    def _command(self, bit: int, *, on: bool) -> None:
        """Change a bit of GCMD_REG and wait until GSTS_REG shows it."""
        lasting = self.qtest.readl(self._base + GSTS_REG) & GSTS_LASTING
        self.qtest.writel(self._base + GCMD_REG, lasting | bit if on else lasting & ~bit)

        def done() -> bool | None:
            return True if bool(self.qtest.readl(self._base + GSTS_REG) & bit) == on else None

        poll_until(done, ANSWER_S, lambda: f"VT-d's GSTS_REG bit {bit:#x} to be {int(on)}")


def _device_tlb(bdf: Bdf, parts: Iterable[tuple[int, int]]) -> list[Entry]:
    """Device-TLB invalidate descriptors (VT-d 6.5.2.5)."""
    entries = []
    for start, order in parts:
        address, larger = sized_address(start, order)
        entries.append((DEVICE_TLB | source_id(bdf) << 32, address | larger))
    return entries


def _fault(low: int, high: int) -> IommuFault:
    code = high >> FRCD_FR & 0xFF
    return IommuFault(
        source_bdf(high & FRCD_SID),
        low & FRCD_FI,
        REASONS.get(code, FaultReason.UNKNOWN),
        not high & FRCD_T1,
        code,
    )
