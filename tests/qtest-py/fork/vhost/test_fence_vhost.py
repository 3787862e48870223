"""The vhost side of the fence: who decides about translation, and features of a back-end."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from qap.host.errors import QapError
from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.iommu.driver import Iommu
from qap.iommu.find import find_iommu
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.matrix.cell import named
from qap.matrix.group import Group
from qap.matrix.result import CellResult
from qap.oracle.features import FeatureBit, mask
from qap.oracle.negotiation import ACCESS_PLATFORM, VERSION_1
from qap.oracle.status import Status
from qap.verify.kit.lab import Lab, MachineOptions
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import pattern
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

PROPERTY = "x-require-iommu-platform"
ON_REQUEST = "x-iommu-platform-on-request"
BASE_KINDS = (
    "vhost-user-rng",
    "vhost-user-i2c",
    "vhost-user-gpio",
    "vhost-user-input",
    "vhost-user-snd",
)
TABLES, RINGS = 16 * MIB, 32 * MIB
SIZE = 64
TRIES = 20
SLOT = 0x10
OLD_MACHINE = "pc-q35-9.2"
TOLD_S = 10.0
# Checks of a ring, each a turn of QEMU's main loop, until a buffer counts as unserved.
LOOKS = 64
ANYTHING = Behaviour(supports=mask(range(64)))
# 6: feature bits of rings and transports; the others belong to a device type.
RESERVED = mask(range(24, 42))
# vhost-user, SET_FEATURES: bit 30 is only for front-end and back-end, not for the driver.
PROTOCOL_FEATURES = mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES])


@dataclass
class Started:
    """A vhost-user device with its back-end on a q35.

    Attributes:
        iommu: the machine's IOMMU or None; it is off, so that all addresses are physical.
    """

    machine: Machine
    backend: Backend
    function: Function
    iommu: Iommu | None

    @property
    def memory(self) -> GuestMemory:
        return GuestMemory(self.machine.qtest, RINGS, 8 * MIB)

    def begin(self, behaviour: Behaviour | None = None) -> tuple[Driver, Queue]:
        """A driver that goes up to DRIVER_OK with queue 0, even if FEATURES_OK does not stay set.

        The back-end's records start here.
        """
        transport = PciModern(self.function)
        transport.reset()
        self.backend.forget()
        driver = Driver(transport, self.memory, behaviour)
        status = driver.negotiate()
        queue = driver.queue(0)
        transport.set_status(status | Status.DRIVER_OK)
        return driver, queue

    def is_served(self, driver: Driver, queue: Queue) -> bool:
        """Whether the back-end fills a buffer; False if it lacks the ring or has disconnected."""
        room = driver.memory.take(SIZE)
        queue.add([Buffer(room, SIZE, writable=True)])
        driver.transport.notify(queue.index)
        with suppress(QapError):
            self.backend.settle()
        used = any(queue.take_used() for _ in range(LOOKS))
        return used and driver.memory.read(room, SIZE) == pattern(SIZE)

    def count(self, request: FrontendRequest) -> int:
        return len(self.backend.requests(request))

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.machine.process.pid}/fd"))  # noqa: PTH208


@pytest.fixture
def testbed(lab: Lab) -> Callable[..., Started]:
    """Plugs a device of this type with a back-end, and finds its PCI function.

    If not `fenced` it has x-require-iommu-platform=off, if there is such a property.
    """

    def plugged(
        kind: str, viommu: str = "none", features: int | None = None, *, fenced: bool = True
    ) -> Started:
        backend = lab.backend(kind, access_platform=True)
        if features is not None:
            backend.features = features
        device, words = vhost_user_types()[kind].pci(backend.path.stem)
        device = {"id": "dut", "iommu_platform": True, **device}
        spec: MachineOptions = {"viommu": viommu, "extra": words, "qtest": True}
        if not vhost_user_types()[kind].hotplug:
            running = lab.machine(**spec)
            bus = PciBus(running.qtest)
            before = {function.bdf for function in bus.scan()}
            if not fenced and _knows(running, str(device["driver"]), PROPERTY):
                device[PROPERTY] = False
            running.plug({**device, "bus": "port0"})
        else:
            running = lab.machine({**device, "bus": "pcie.0", "addr": hex(SLOT)}, **spec)
            bus = PciBus(running.qtest)
            before = {function.bdf for function in bus.scan() if function.bdf.device != SLOT}
        (function,) = [function for function in bus.scan() if function.bdf not in before]
        tables = GuestMemory(running.qtest, TABLES, 4 * MIB)
        iommu = None if viommu == "none" else find_iommu(bus, tables)
        return Started(running, backend, function, iommu)

    return plugged


def _knows(machine: Machine, driver: str, name: str) -> bool:
    """Whether a device type has a property; stock QEMU lacks the fence and its property."""
    known = machine.qmp.execute("device-list-properties", typename=driver)
    return name in [entry["name"] for entry in known]


def problems(lab: Lab, *cells: str) -> list[str]:
    """The problems in these cells of the matrix, which share a QEMU."""
    results: list[CellResult] = []
    Group(lab.build, [named(cell) for cell in cells], results.append, debug=False).run()
    assert len(results) == len(cells)
    return [problem.text for result in results for problem in result.problems]


@pytest.mark.parametrize("kind", ["vhost-user-rng", "vhost-user-blk", "vhost-user-scsi"])
def test_back_end_is_told_what_its_addresses_are(
    testbed: Callable[..., Started], kind: str
) -> None:
    """vhost-user, IOMMU support: with IOTLB messages comes ACCESS_PLATFORM, for any driver.

    A driver that is served without the bit is still translated by the IOMMU.
    """
    here = testbed(kind, "intel-iommu", fenced=False)
    for accepts in (False, True, False):
        driver, queue = here.begin(None if accepts else Behaviour(VERSION_1, obeys=False))
        here.backend.settle()
        assert here.count(FrontendRequest.IOTLB_MSG)
        told = here.backend.requests(FrontendRequest.SET_FEATURES)
        assert all(message.words[0] & ACCESS_PLATFORM for message in told)
        assert here.is_served(driver, queue)


@pytest.mark.parametrize(
    "cell",
    [
        "vhost-user-vsock/no-ap/intel-off/any/on/hot",
        "vhost-user-vsock/no-ap/virtio-off/any/on/hot",
        "vhost-user-scsi/no-ap/intel-off/any/on/hot",
        "vhost-user-scsi/no-ap/virtio-off/any/on/hot",
        "vhost-user-crypto/no-ap/intel-off/any/on/hot",
        "vhost-user-gpu/no-ap/intel-off/before/on/cold",
        "vhost-user-gpu/no-ap/virtio-off/after/on/cold",
        "vhost-user-vga/no-ap/intel-off/after/on/cold",
    ],
)
def test_back_end_that_cannot_translate_is_refused(lab: Lab, cell: str) -> None:
    """vhost-user, IOMMU support: only a back-end that offers the bit asks for translations."""
    assert problems(lab, f"q35/modern/{cell}/accepts") == []


@pytest.mark.parametrize("viommu", ["intel-on", "virtio-on"])
@pytest.mark.parametrize("kind", ["vhost-user-fs", "vhost-user-input"])
def test_unused_queue_needs_no_mapping(lab: Lab, kind: str, viommu: str) -> None:
    """3.1.1 step 7: a driver sets up the queues that it needs; this one uses only queue 1.

    So nothing is mapped at address 0, which is the ring address of an unused queue.
    """
    assert problems(lab, f"q35/modern/{kind}/ap/{viommu}/any/on/hot/accepts") == []


def test_failed_start_leaves_no_file_descriptor(testbed: Callable[..., Started]) -> None:
    """The rings are not mapped, so every attempt to start the device fails."""
    here = testbed("vhost-user-rng", "intel-iommu")
    assert here.iommu is not None
    here.iommu.attach(here.function.bdf)
    here.iommu.enable()
    here.begin()
    before = here.fds()
    for _ in range(TRIES):
        here.begin()
        here.backend.settle()
        assert here.count(FrontendRequest.SET_VRING_ADDR)
        assert not here.count(FrontendRequest.IOTLB_MSG)
    assert here.fds() == before


@pytest.mark.parametrize("viommu", ["none", "intel-on"])
@pytest.mark.parametrize("kind", BASE_KINDS)
def test_bit_is_offered_on_request_only(lab: Lab, kind: str, viommu: str) -> None:
    """iommu_platform=off: the bit is not offered, even if the back-end can translate.

    Behind an IOMMU the driver is served at physical addresses, as with any other device.
    """
    assert problems(lab, f"q35/modern/{kind}/ap/{viommu}/any/off/hot/accepts") == []


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_property_offers_what_the_back_end_offers(lab: Lab, kind: str) -> None:
    """x-iommu-platform-on-request=off keeps the old behaviour."""
    backend = lab.backend(kind, access_platform=True)
    machine = lab.machine(qtest=True)
    device = {**lab.device(kind, backend), "iommu_platform": False, ON_REQUEST: False}
    assert machine.refusal(device) == ""
    function = PciBus(machine.qtest).find(VENDOR_ID)
    assert PciModern(function).device_features & ACCESS_PLATFORM


def test_old_machine_type_offers_what_the_back_end_offers(lab: Lab) -> None:
    """It has that property off, so that the features of its guests don't change."""
    backend = lab.backend("vhost-user-rng", access_platform=True)
    spec = Spec(
        machine=OLD_MACHINE,
        accel="qtest",
        memory=128,
        chardevs=[f"socket,id=backend,path={backend.path}"],
        devices=[{"driver": "vhost-user-rng-pci", "chardev": "backend"}],
        qtest=True,
    )
    binary = lab.build.path("qemu-system-x86_64")
    machine = lab.owned.enter_context(Machine(binary, spec, log=lab.log()))
    function = PciBus(machine.qtest).find(VENDOR_ID)
    assert PciModern(function).device_features & ACCESS_PLATFORM


@pytest.mark.parametrize("kind", ["vhost-user-gpu", "vhost-user-vga"])
def test_gpu_back_end_is_given_what_it_offers(testbed: Callable[..., Started], kind: str) -> None:
    """vhost-user, SET_FEATURES: only bits that GET_FEATURES returned."""
    here = testbed(kind)
    driver, _ = here.begin(ANYTHING)
    here.backend.wait_for(FrontendRequest.SET_VRING_ADDR, TOLD_S)
    given = here.backend.acked_features
    assert given is not None
    assert given & VERSION_1
    assert not given & ~here.backend.features
    # Driver and back-end must agree about the features of rings.
    ring = RESERVED & ~ACCESS_PLATFORM & ~PROTOCOL_FEATURES
    assert driver.accepted & ring == given & ring


@pytest.mark.parametrize("viommu", ["none", "intel-iommu"])
def test_crypto_back_end_is_given_what_the_driver_accepted(
    testbed: Callable[..., Started], viommu: str
) -> None:
    """The driver is offered no feature that the back-end, which serves the ring, lacks."""
    here = testbed("vhost-user-crypto", viommu)
    driver, queue = here.begin(ANYTHING)
    assert not driver.offered & RESERVED & ~here.backend.features
    assert here.is_served(driver, queue)
    untranslated = ACCESS_PLATFORM if viommu == "none" else 0
    given = here.backend.acked_features
    assert given is not None
    assert given & ~PROTOCOL_FEATURES == driver.accepted & RESERVED & ~untranslated


def test_crypto_back_end_without_ring_features_gets_a_plain_ring(
    testbed: Callable[..., Started],
) -> None:
    """The driver must not use indirect tables, which the back-end does not support."""
    here = testbed("vhost-user-crypto", features=MODERN | PROTOCOL_FEATURES)
    driver, queue = here.begin(ANYTHING)
    assert driver.accepted & RESERVED == MODERN
    assert here.is_served(driver, queue)


@pytest.mark.parametrize(
    "cell",
    [
        "vhost-user-scsi/no-version-1/none/any/on/hot",
        "vhost-user-scsi/no-version-1/none/any/off/hot",
        "vhost-user-crypto/no-version-1/none/any/off/hot",
    ],
)
def test_modern_device_needs_a_modern_back_end(lab: Lab, cell: str) -> None:
    """6.1: a non-transitional device must offer VERSION_1, but the back-end doesn't."""
    assert problems(lab, f"q35/modern/{cell}/accepts") == []


def test_modern_gpu_needs_a_modern_back_end(testbed: Callable[..., Started]) -> None:
    """The same for a GPU, whose queues the back-end serves, too."""
    edid = mask([1])
    with pytest.raises(QemuDied) as refused:
        testbed("vhost-user-gpu", features=edid | PROTOCOL_FEATURES)
    assert refused.value.status == 1
    assert "a backend that offers VIRTIO_F_VERSION_1" in refused.value.said


@pytest.mark.parametrize("kind", ["vhost-user-rng", "vhost-user-blk", "vhost-user-fs"])
def test_driver_that_is_let_through_stays_behind_the_iommu(
    testbed: Callable[..., Started], kind: str
) -> None:
    """An IOMMU that maps nothing protects all memory, as with a device in QEMU.

    A driver, for example in a nested guest, must not be able to bypass that.
    """
    here = testbed(kind, "intel-iommu", fenced=False)
    assert here.iommu is not None
    here.iommu.attach(here.function.bdf)
    here.iommu.enable()
    assert not here.is_served(*here.begin(Behaviour(VERSION_1, obeys=False)))


def test_driver_does_not_take_the_bit_back(testbed: Callable[..., Started]) -> None:
    """3.1.1 step 5: no new features after FEATURES_OK or DRIVER_OK.

    When the device is started again, as after a pause of the VM, the bit must still be set.
    """
    here = testbed("vhost-user-rng", "intel-iommu")
    driver, queue = here.begin(Behaviour(MODERN, sets_features_ok=False))
    assert here.is_served(driver, queue)
    driver.transport.set_driver_features(VERSION_1)
    here.backend.forget()
    here.machine.qmp.execute("stop")
    here.machine.qmp.execute("cont")
    assert here.machine.alive
    with suppress(QapError):
        here.backend.settle()
    given = here.backend.acked_features or 0
    told = bool(here.count(FrontendRequest.SET_VRING_ADDR))
    assert not told or given & ACCESS_PLATFORM
