"""A virtio-iommu and its driver (virtio 1.3, section 5.13)."""

from dataclasses import dataclass, field
from itertools import count

from qap.hw.pci import Bdf, Function
from qap.iommu.driver import FaultReason, Iommu, IommuError, IommuFault, source_bdf, source_id
from qap.iommu.virtio_iommu_requests import (
    ATTACH,
    CONFIG,
    CONFIG_BYPASS,
    DETACH,
    FAULT,
    FAULT_F_READ,
    FAULT_F_WRITE,
    FEATURES,
    HEAD,
    MAP,
    MAP_F_READ,
    MAP_F_WRITE,
    PROBE,
    PROPERTY,
    PROPERTY_RESV_MEM,
    RESV_MEM,
    TAIL,
    UNMAP,
    IommuRequest,
    IommuRequestStatus,
)
from qap.machine.guest_memory import GuestMemory
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer, Queue

DEVICE_TYPE = 23
REQUESTQ = 0
EVENTQ = 1
EVENTS = 32
SERVED_S = 10.0
# Of the longest request.
ROOM = 128


class RequestError(IommuError):
    """The device answered a request with a status other than OK.

    Attributes:
        status: the status, an IommuRequestStatus if known.
    """

    def __init__(self, request: IommuRequest, status: int) -> None:
        known = [member.name for member in IommuRequestStatus if member == status]
        super().__init__(f"virtio-iommu: {request.name}: {(known or [hex(status)])[0]}")
        self.status = status


@dataclass(frozen=True)
class Mapping:
    """A range of IOVAs, mapped by one MAP request."""

    iova: int
    end: int
    physical: int
    flags: int


@dataclass
class Domain:
    """A domain; the device drops it when it has no endpoint left."""

    id: int
    mappings: list[Mapping] = field(default_factory=list)


@dataclass(frozen=True)
class ReservedRegion:
    """IOVAs that can't be mapped (5.13.6.8): first, last, and the subtype, where 1 is MSI."""

    start: int
    end: int
    subtype: int


class VirtioIommu(Iommu):
    """QEMU's virtio-iommu-pci.

    A mapping can't be unmapped in part (5.13.6.6). QEMU refuses to attach a device that does
    not exist, and reports reason UNKNOWN for a fault of a device without a domain.

    Args:
        function: its PCI function.
        memory: for its rings and buffers; must not be used for anything else.
    """

    def __init__(self, function: Function, memory: GuestMemory) -> None:
        self._function = function
        self._driver = Driver(PciModern(function), memory, Behaviour(supports=FEATURES))
        raw = self._driver.transport.config_read(0, CONFIG.size)
        _, self._input_start, input_end, *_, self._probe_size, _ = CONFIG.unpack(raw)
        self.limit = input_end + 1
        self._enabled = False
        self._domains: dict[Bdf, Domain] = {}
        self._eventq: Queue | None = None
        self._events: dict[int, int] = {}

    def enable(self) -> None:
        memory = self._driver.memory
        memory.give_back()
        # A system reset unmaps the BARs.
        self._driver.transport = PciModern(self._function)
        self._driver.negotiate()
        self._requestq = self._driver.queue(REQUESTQ)
        self._eventq = self._driver.queue(EVENTQ)
        self._request = memory.take(ROOM)
        self._answer = memory.take(self._probe_size + TAIL.size)
        self._events = {}
        first = memory.take(FAULT.size * EVENTS)
        for number in range(EVENTS):
            self._offer(first + FAULT.size * number)
        self._driver.start()
        self._driver.transport.config_write(CONFIG_BYPASS, b"\0")
        self._enabled = True
        for bdf, domain in self._domains.items():
            self._attach(bdf, domain)
            for mapping in domain.mappings:
                self._map(domain, mapping)

    def disable(self) -> None:
        if self._enabled:
            self._driver.transport.config_write(CONFIG_BYPASS, b"\1")
            for bdf, domain in self._domains.items():
                self._detach(bdf, domain)
            self._enabled = False

    def attach(self, bdf: Bdf) -> None:
        self._check_free(bdf)
        used = {domain.id for domain in self._domains.values()}
        domain = Domain(next(number for number in count(1) if number not in used))
        self._attach(bdf, domain)
        self._domains[bdf] = domain

    def detach(self, bdf: Bdf) -> None:
        self._detach(bdf, self._domain(bdf))
        del self._domains[bdf]

    def move(self, bdf: Bdf, to: Bdf) -> None:
        domain = self._domain(bdf)
        self._check_free(to)
        # Attach first: the domain must always have an endpoint.
        self._attach(to, domain)
        self._domains[to] = domain
        self.detach(bdf)

    def map(
        self,
        bdf: Bdf,
        iova: int,
        physical: int,
        size: int,
        *,
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        domain = self._domain(bdf)
        self._check(iova, size, physical)
        if iova < self._input_start:
            raise IommuError(f"IOVA {iova:#x} is below {self._input_start:#x}")
        if any(mapping.iova < iova + size and iova < mapping.end for mapping in domain.mappings):
            raise IommuError(f"part of {size:#x} bytes at IOVA {iova:#x} is mapped already")
        flags = (MAP_F_READ if readable else 0) | (MAP_F_WRITE if writable else 0)
        mapping = Mapping(iova, iova + size, physical, flags)
        self._map(domain, mapping)
        domain.mappings.append(mapping)

    def unmap(self, bdf: Bdf, iova: int, size: int) -> None:
        domain = self._domain(bdf)
        self._check(iova, size)
        inside = [
            mapping
            for mapping in domain.mappings
            if mapping.iova < iova + size and iova < mapping.end
        ]
        if any(mapping.iova < iova or mapping.end > iova + size for mapping in inside):
            raise IommuError(f"{size:#x} bytes at IOVA {iova:#x} are part of a larger mapping")
        self._ask(IommuRequest.UNMAP, UNMAP.pack(domain.id, iova, iova + size - 1))
        domain.mappings = [mapping for mapping in domain.mappings if mapping not in inside]

    def flush(self) -> None:
        """Nothing to do: a request has taken effect when it is answered (5.13.6.2)."""

    def faults(self) -> list[IommuFault]:
        faults: list[IommuFault] = []
        if self._eventq is None:
            return faults
        while used := self._eventq.take_used():
            address = self._events.pop(used.id)
            faults.append(_fault(self._driver.memory.read(address, FAULT.size)))
            self._offer(address)
        return faults

    def probe(self, bdf: Bdf) -> list[ReservedRegion]:
        """The IOVAs that a device can't have mapped (5.13.6.7); translation must be on."""
        raw = self._ask(IommuRequest.PROBE, PROBE.pack(source_id(bdf)), self._probe_size)
        regions, at = [], 0
        while at + PROPERTY.size <= len(raw):
            kind, length = PROPERTY.unpack_from(raw, at)
            at += PROPERTY.size
            if kind == PROPERTY_RESV_MEM:
                subtype, start, end = RESV_MEM.unpack_from(raw, at)
                regions.append(ReservedRegion(start, end, subtype))
            at += length
        return regions

    def _attach(self, bdf: Bdf, domain: Domain) -> None:
        self._ask(IommuRequest.ATTACH, ATTACH.pack(domain.id, source_id(bdf), 0))

    def _detach(self, bdf: Bdf, domain: Domain) -> None:
        self._ask(IommuRequest.DETACH, DETACH.pack(domain.id, source_id(bdf)))

    def _map(self, domain: Domain, mapping: Mapping) -> None:
        body = MAP.pack(domain.id, mapping.iova, mapping.end - 1, mapping.physical, mapping.flags)
        self._ask(IommuRequest.MAP, body)

    def _ask(self, request: IommuRequest, body: bytes, room: int = 0) -> bytes:
        """Send a request, if translation is on; returns `room` bytes of the answer."""
        if not self._enabled:
            return bytes(room)
        memory = self._driver.memory
        raw = HEAD.pack(request) + body
        memory.write(self._request, raw)
        size = room + TAIL.size
        chain = [Buffer(self._request, len(raw)), Buffer(self._answer, size, writable=True)]
        self._driver.serve(self._requestq, chain, SERVED_S)
        answer = memory.read(self._answer, size)
        (status,) = TAIL.unpack_from(answer, room)
        if status != IommuRequestStatus.OK:
            raise RequestError(request, status)
        return answer[:room]

    def _offer(self, address: int) -> None:
        assert self._eventq is not None
        head = self._eventq.add([Buffer(address, FAULT.size, writable=True)])
        self._events[head] = address

    def _domain(self, bdf: Bdf) -> Domain:
        if bdf not in self._domains:
            raise IommuError(f"{bdf} has no domain")
        return self._domains[bdf]

    def _check_free(self, bdf: Bdf) -> None:
        if bdf in self._domains:
            raise IommuError(f"{bdf} has a domain already")


def _fault(raw: bytes) -> IommuFault:
    code, flags, endpoint, address = FAULT.unpack(raw)
    known = flags & (FAULT_F_READ | FAULT_F_WRITE)
    reason = FaultReason(code) if code in (1, 2) else FaultReason.UNKNOWN
    return IommuFault(
        source_bdf(endpoint), address, reason, bool(known & FAULT_F_WRITE) if known else None, code
    )
