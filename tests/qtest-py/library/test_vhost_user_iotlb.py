"""The Python back-end behind a vIOMMU that translates nothing yet: QEMU's answers to misses.

If translation of VT-d is off, or virtio-iommu bypasses devices without a domain, QEMU sends
entries that map an address to itself.
"""

from collections.abc import Sequence

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle import addresses
from qap.oracle.features import FeatureBit, mask
from qap.oracle.fence import REFUSAL_PHRASE
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.chain_service import pattern
from qap.vhost_user.memory.iotlb import IotlbType, Permission
from qap.vhost_user.protocol import FrontendRequest, ProtocolFeature
from qap.vhost_user.records import Received
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

RNG = "vhost-user-rng"
VIOMMUS = ("intel-iommu", "virtio-iommu")
PAGE = 4096
RINGS = {"split": (), "packed": (FeatureBit.RING_PACKED,)}
MIB = 1 << 20
# Above the 128 MiB of RAM and below the PCI hole, so not mapped.
NOWHERE = 0x4000_0000


class Started:
    """A device of some type behind a vIOMMU, with a driver that has set up its first queue."""

    def __init__(
        self,
        lab: Lab,
        kind: str,
        viommu: str = "intel-iommu",
        *bits: int,
        offers: Sequence[ProtocolFeature] = (),
    ) -> None:
        self.backend: Backend = lab.backend(kind, access_platform=True)
        self.backend.features |= mask(bits)
        self.backend.protocol_features |= mask(offers)
        device, options = vhost_user_types()[kind].pci(self.backend.path.stem)
        placed = {**device, "id": "dut", "bus": "port0", "iommu_platform": True}
        placed["packed"] = FeatureBit.RING_PACKED in bits
        if kind in ("vhost-user-blk", "vhost-user-scsi", "vhost-user-vsock", "vhost-user-net"):
            placed["disable-legacy"] = "on"
        self.machine: Machine = lab.machine(placed, viommu=viommu, qtest=True, extra=options)
        functions = PciBus(self.machine.qtest).scan()
        # The device is behind the root port; a virtio-iommu is on the root bus.
        (dut,) = [
            function
            for function in functions
            if function.vendor_id == VENDOR_ID and function.bdf.bus
        ]
        self.transport = PciModern(dut)
        self.memory = GuestMemory(self.machine.qtest)
        self.behaviour = Behaviour(supports=MODERN | mask(bits))
        self.start()

    def start(self) -> None:
        self.driver = Driver(self.transport, self.memory, self.behaviour)
        self.driver.negotiate()
        self.queue: Queue = self.driver.queue(0)
        self.driver.start()

    def exchange(self, address: int, size: int) -> None:
        """Have the device fill a buffer, and check its contents."""
        used = self.driver.serve(self.queue, [Buffer(address, size, writable=True)])
        assert used.length == size
        assert self.memory.read(address, size) == pattern(size)


def has(backend: Backend, bit: ProtocolFeature) -> bool:
    """Whether QEMU has negotiated a protocol feature."""
    (told,) = backend.requests(FrontendRequest.SET_PROTOCOL_FEATURES)
    return bool(told.words[0] >> bit & 1)


def entries(backend: Backend) -> list[Received]:
    """Every IOTLB update that QEMU has sent."""
    told = backend.requests(FrontendRequest.IOTLB_MSG)
    return [message for message in told if message.words[4] == IotlbType.UPDATE]


def pages(backend: Backend) -> set[int]:
    """Start addresses of the pages that the back-end accessed."""
    return {
        page
        for access in backend.touched
        for page in range(access.address & -PAGE, access.address + access.size, PAGE)
    }


@pytest.mark.parametrize("viommu", VIOMMUS)
@pytest.mark.parametrize("ring", RINGS)
def test_rings_and_buffers_are_translated(lab: Lab, viommu: str, ring: str) -> None:
    started = Started(lab, RNG, viommu, *RINGS[ring])
    for _ in range(3):
        started.exchange(started.memory.take(64), 64)
    backend = started.backend
    assert {access.space for access in backend.touched} == {"iova"}
    assert backend.ring_errors == []
    told = {
        message.words[0] + at
        for message in entries(backend)
        for at in range(0, message.words[1], PAGE)
    }
    assert pages(backend) <= told


# A crypto back-end is never told of ACCESS_PLATFORM, and can't translate.
@pytest.mark.parametrize(
    "kind", [kind for kind in vhost_user_types() if kind != "vhost-user-crypto"]
)
def test_every_type_is_served_through_the_iotlb(lab: Lab, kind: str) -> None:
    started = Started(lab, kind)
    started.exchange(started.memory.take(32), 32)
    assert {access.space for access in started.backend.touched} == {"iova"}


def test_crypto_is_served_through_the_iotlb(lab: Lab) -> None:
    started = Started(lab, "vhost-user-crypto")
    started.queue.add([Buffer(started.memory.take(32), 32, writable=True)])
    started.transport.notify(0)
    started.backend.settle()
    assert started.backend.ring_errors == []
    assert started.queue.take_used()


@pytest.mark.parametrize("viommu", ["none", *VIOMMUS])
def test_addresses_mean_what_was_negotiated(lab: Lab, viommu: str) -> None:
    """QEMU takes GPA_ADDRESSES from 11.1 on; the back-end is served either way."""
    started = Started(lab, RNG, viommu, offers=[ProtocolFeature.GPA_ADDRESSES])
    started.exchange(started.memory.take(64), 64)
    backend, translating = started.backend, viommu != "none"
    assert backend.ring_errors == []
    assert {access.space for access in backend.touched} == {
        addresses.of_rings(
            translating=translating, gpa_addresses=has(backend, ProtocolFeature.GPA_ADDRESSES)
        ),
        addresses.of_buffers(translating=translating),
    }


def test_ring_addresses_are_those_that_the_driver_wrote(lab: Lab) -> None:
    started = Started(lab, RNG)
    (told,) = started.backend.requests(FrontendRequest.SET_VRING_ADDR)
    _, _, desc, device, driver, _ = told.words
    where = started.queue.addresses
    assert (desc, driver, device) == (where.desc, where.driver, where.device)


def test_buffer_on_several_pages_needs_an_entry_for_each(lab: Lab) -> None:
    started = Started(lab, RNG)
    address = started.memory.take(5 * PAGE, PAGE) + PAGE // 2
    started.exchange(address, 3 * PAGE)
    buffers = [access for access in started.backend.touched if access.what == "buffer"]
    assert [(access.address, access.size, access.write) for access in buffers] == [
        (address, 3 * PAGE, True)
    ]
    told = {message.words[0] for message in entries(started.backend)}
    assert {address - PAGE // 2 + at * PAGE for at in range(4)} <= told


def test_page_is_asked_for_once(lab: Lab) -> None:
    started = Started(lab, RNG)
    address = started.memory.take(PAGE, PAGE)
    started.exchange(address, 64)
    before = len(entries(started.backend))
    for _ in range(5):
        started.exchange(address, 64)
    assert len(entries(started.backend)) == before


def test_nothing_is_kept_over_a_reset(lab: Lab) -> None:
    """QEMU sends no invalidations for a device that is stopped."""
    started = Started(lab, RNG)
    address = started.memory.take(PAGE, PAGE)
    for _ in range(3):
        started.exchange(address, 64)
        assert address in {message.words[0] for message in entries(started.backend)}
        started.transport.reset()
        started.backend.forget()
        started.start()


def test_address_that_is_no_memory_is_an_error_of_the_ring(lab: Lab) -> None:
    """QEMU refuses to translate it; the next buffer is served."""
    started = Started(lab, RNG)
    started.queue.add([Buffer(NOWHERE, 64, writable=True)])
    started.transport.notify(0)
    started.backend.settle()
    assert started.queue.take_used() is None
    errors = started.backend.ring_errors
    assert errors
    assert all(f"IOVA {NOWHERE:#x}" in str(error) for error in errors)
    assert NOWHERE not in pages(started.backend)
    started.transport.reset()
    started.start()
    started.exchange(started.memory.take(64), 64)


def test_back_end_may_ask_on_its_own(lab: Lab) -> None:
    started = Started(lab, RNG)
    address = started.memory.take(PAGE, PAGE)
    before = len(entries(started.backend))
    assert started.backend.front_end.iotlb_miss(address, Permission.READ_WRITE) == 0
    (told,) = entries(started.backend)[before:]
    iova, size, _, permission, _ = told.words
    assert (iova, size, permission) == (address, PAGE, Permission.READ_WRITE)
    assert started.backend.front_end.iotlb_miss(NOWHERE, Permission.READ) == 1


def test_stopped_device_is_told_no_translation(lab: Lab) -> None:
    started = Started(lab, RNG)
    started.transport.reset()
    assert started.backend.front_end.iotlb_miss(16 * MIB, Permission.READ) == 1


def test_unplugged_device_has_no_channel(lab: Lab) -> None:
    started = Started(lab, RNG)
    started.machine.qmp.execute("device_del", id="dut")
    started.machine.qmp.execute("system_reset")
    started.machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", 10)
    with pytest.raises(NoAnswer):
        started.backend.front_end.iotlb_miss(16 * MIB, Permission.READ)


@pytest.mark.parametrize("missing", [ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ])
def test_back_end_that_translates_must_be_able_to_ask(lab: Lab, missing: ProtocolFeature) -> None:
    backend = lab.backend(RNG, access_platform=True)
    backend.protocol_features &= ~mask([missing])
    said = lab.cold_refusal(lab.device(RNG, backend), viommu="intel-iommu")
    assert REFUSAL_PHRASE in said
    assert "without the protocol features REPLY_ACK and BACKEND_REQ" in said


def test_untranslated_device_has_no_iotlb(lab: Lab) -> None:
    """Without a vIOMMU a back-end that could translate is not asked to."""
    started = Started(lab, RNG, "none")
    started.exchange(started.memory.take(64), 64)
    assert entries(started.backend) == []
    assert {access.space for access in started.backend.touched} == {"uva", "gpa"}
