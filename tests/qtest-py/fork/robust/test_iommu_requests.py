"""Requests to a virtio-iommu that no good driver makes."""

import struct

import pytest

from qap.hw.pci_bus import PciBus
from qap.iommu.virtio_iommu_requests import HEAD, TAIL, IommuRequest, IommuRequestStatus
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

IOMMU_TYPE = 23
PROBE_SIZE = 512
DOMAIN = 7
READ = 1
TOP = 1 << 39


class Requests:
    """The request queue of a machine's virtio-iommu, with a device behind it."""

    def __init__(self, lab: Lab) -> None:
        device = {"driver": "virtio-rng-pci", "disable-legacy": "on", "iommu_platform": True}
        machine = lab.machine(device, viommu="virtio-iommu", qtest=True)
        bus = PciBus(machine.qtest)
        self.machine = machine
        found = [PciModern(f) for f in bus.scan() if f.vendor_id == VENDOR_ID]
        (iommu,) = [each for each in found if each.device_type == IOMMU_TYPE]
        (rng,) = [each for each in found if each.device_type != IOMMU_TYPE]
        bdf = rng.function.bdf
        self.endpoint = bdf.bus << 8 | bdf.device << 3 | bdf.function
        memory = GuestMemory(machine.qtest, 32 * MIB, 4 * MIB)
        self._driver = Driver(iommu, memory)
        self._driver.negotiate()
        self._queue: Queue = self._driver.queue(0)
        self._driver.start()

    def ask(self, request: IommuRequest, body: bytes) -> IommuRequestStatus:
        """Send a request; returns its status."""
        memory = self._driver.memory
        raw = HEAD.pack(request) + body
        room = TAIL.size + (PROBE_SIZE if request == IommuRequest.PROBE else 0)
        sent, answer = memory.put(raw), memory.take(room)
        chain = [Buffer(sent, len(raw)), Buffer(answer, room, writable=True)]
        self._driver.serve(self._queue, chain)
        return IommuRequestStatus(memory.read(answer + room - TAIL.size, 1)[0])

    def attach(self, reserved: int = 0) -> IommuRequestStatus:
        body = struct.pack("<IIII", DOMAIN, self.endpoint, 0, reserved)
        return self.ask(IommuRequest.ATTACH, body)

    def map(self, first: int, last: int, physical: int) -> IommuRequestStatus:
        body = struct.pack("<IQQQI", DOMAIN, first, last, physical, READ)
        return self.ask(IommuRequest.MAP, body)


@pytest.fixture
def requests(lab: Lab) -> Requests:
    return Requests(lab)


def test_reserved_fields_must_be_zero(requests: Requests) -> None:
    """5.13.6.3.2, 5.13.6.4.2, 5.13.6.7.2: INVAL, and the request is not executed."""
    invalid = IommuRequestStatus.INVAL
    assert requests.attach(reserved=1) == invalid
    probe = struct.pack("<I", requests.endpoint)
    assert requests.ask(IommuRequest.PROBE, probe + b"\1" + bytes(63)) == invalid
    assert requests.ask(IommuRequest.PROBE, probe + bytes(64)) == IommuRequestStatus.OK
    assert requests.attach() == IommuRequestStatus.OK
    detach = struct.pack("<II", DOMAIN, requests.endpoint)
    assert requests.ask(IommuRequest.DETACH, detach + bytes(7) + b"\1") == invalid
    # It is still attached: the domain is there.
    assert requests.map(0, PAGE - 1, 0) == IommuRequestStatus.OK
    assert requests.ask(IommuRequest.DETACH, detach + bytes(8)) == IommuRequestStatus.OK


@pytest.mark.parametrize(
    ("first", "last", "physical"),
    [
        (PAGE + 1, 2 * PAGE - 1, PAGE),
        (PAGE, 2 * PAGE - 2, PAGE),
        (PAGE, 2 * PAGE, PAGE),
        (PAGE, 2 * PAGE - 1, PAGE + 8),
        (2 * PAGE, PAGE - 1, PAGE),
        (PAGE, PAGE - 1, PAGE),
        (TOP, TOP + PAGE - 1, PAGE),
        (PAGE, (1 << 64) - 1, PAGE),
        (0, 2 * PAGE - 1, (1 << 64) - PAGE),
    ],
)
def test_only_whole_pages_within_limits_are_mapped(
    requests: Requests, first: int, last: int, physical: int
) -> None:
    """5.13.6.5.2: else RANGE, and nothing is mapped."""
    assert requests.attach() == IommuRequestStatus.OK
    assert requests.map(first, last, physical) == IommuRequestStatus.RANGE
    assert requests.map(0, 4 * PAGE - 1, 0) == IommuRequestStatus.OK
    assert requests.machine.alive


def test_good_requests_are_as_before(requests: Requests) -> None:
    """Whole pages up to the end of the input range."""
    assert requests.attach() == IommuRequestStatus.OK
    assert requests.map(PAGE, 3 * PAGE - 1, 5 * PAGE) == IommuRequestStatus.OK
    assert requests.map(TOP - PAGE, TOP - 1, 0) == IommuRequestStatus.OK
