"""Migration: the destination decides by the features that the driver has accepted."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.machine.qtest_follow import MovingQtest
from qap.oracle.features import FeatureBit
from qap.oracle.status import Status
from qap.verify.kit.lab import Lab
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transports import TRANSPORTS

DISK = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
# 5.2.6: a request to read sector 0, its data, and the status.
READ = bytes(16)
SECTOR, STATUS = 512, 1
QUEUE_SIZE = 8
LOOKS = 64
UNWILLING = Behaviour(obeys=False).without(FeatureBit.ACCESS_PLATFORM)
OLD, NEW = "pc-q35-9.2", "q35"


@dataclass
class Host:
    """A QEMU with one device.

    Attributes:
        machine: started, or waiting for an incoming migration.
    """

    machine: Machine

    def drive(self, behaviour: Behaviour | None = None) -> "Moving":
        """A new driver of the device."""
        session = MovingQtest(self.machine.qtest)
        transport = PciModern(PciBus(session).find(VENDOR_ID))
        memory = GuestMemory(session)
        return Moving(session, transport, memory, Driver(transport, memory, behaviour))

    def said(self) -> str:
        """The output of QEMU."""
        return self.machine.process.tail()

    def is_broken(self) -> bool:
        """Whether the device says that it is broken."""
        (path,) = [device["path"] for device in self.machine.qmp.execute("x-query-virtio")]
        return bool(self.machine.qmp.execute("x-query-virtio-status", path=path)["broken"])


@dataclass
class Moving:
    """A driver that moves with its VM."""

    session: MovingQtest
    transport: PciModern
    memory: GuestMemory
    driver: Driver
    queue: Queue | None = None

    def go_to_features_ok(self) -> Status:
        """Negotiate up to FEATURES_OK, without regard to the status read back; returns that."""
        status = self.driver.negotiate()
        self.queue = self.driver.queue(0, QUEUE_SIZE)
        return status

    def go_to_driver_ok(self) -> None:
        status = self.go_to_features_ok()
        self.transport.set_status(status | Status.DRIVER_OK)

    def arrive(self, host: Host) -> None:
        """Continue on another host, which has the VM now; all addresses stay valid."""
        self.session.now = host.machine.qtest

    def is_served(self, kind: str) -> bool:
        """Whether the device uses a buffer. Each check is a turn of QEMU's main loop."""
        assert self.queue
        chain = [Buffer(self.memory.take(SECTOR + STATUS), SECTOR + STATUS, writable=True)]
        if kind == "virtio-blk":
            chain.insert(0, Buffer(self.memory.put(READ), len(READ)))
        self.queue.add(chain)
        self.transport.notify(0)
        return any(self.queue.take_used() for _ in range(LOOKS))


Start = Callable[..., Host]


@pytest.fixture
def start(lab: Lab) -> Iterator[Start]:
    """Starts a q35 with a device; `waits` makes it the destination of a migration."""
    with ExitStack() as owned:
        count = iter(range(10))

        def started(
            kind: str,
            *,
            requested: bool = True,
            waits: bool = False,
            build: Build | None = None,
            machine: str = NEW,
            **properties: object,
        ) -> Host:
            variant = replace(
                TRANSPORTS["pci modern"],
                machine=machine,
                extra=("-incoming", "defer") if waits else (),
            )
            blockdevs = [DISK] if kind == "virtio-blk" else []
            properties |= {"drive": "disk0"} if blockdevs else {}
            spec = variant.spec(kind, blockdevs, iommu_platform=requested, **properties)
            log = lab.folder / f"qemu-{next(count)}.log"
            binary = (build or lab.build).path(variant.emulator)
            return Host(owned.enter_context(Machine(binary, spec, log=log)))

        yield started


def move(source: Host, destination: Host, folder: Path) -> str:
    """Migrate a VM; returns ARRIVED or the error of the destination."""
    return migrate(source.machine, destination.machine, folder)


@pytest.mark.parametrize("kind", ["virtio-rng", "virtio-blk"])
def test_driver_without_the_bit_does_not_move_in(lab: Lab, start: Start, kind: str) -> None:
    """2.2.1: a driver can't accept a feature after negotiation.

    Without the feature the destination can't do what iommu_platform=on means, so it refuses.
    """
    source = start(kind, requested=False)
    moving = source.drive()
    moving.go_to_driver_ok()
    assert moving.is_served(kind)
    said = move(source, start(kind, waits=True), lab.folder)
    assert "iommu_platform" in said
    assert "VIRTIO_F_ACCESS_PLATFORM" in said
    assert kind in said


def test_driver_between_features_ok_and_driver_ok_does_not_move_in(lab: Lab, start: Start) -> None:
    """3.1.1 step 5: after FEATURES_OK it can accept no more features and would not be served."""
    source = start("virtio-rng", requested=False)
    assert Status.FEATURES_OK in source.drive().go_to_features_ok()
    assert "iommu_platform" in move(source, start("virtio-rng", waits=True), lab.folder)


def test_driver_with_the_bit_does_not_move_out(lab: Lab, start: Start) -> None:
    """A driver that has accepted the bit can't run where it is not offered."""
    source = start("virtio-rng")
    source.drive().go_to_driver_ok()
    said = move(source, start("virtio-rng", requested=False, waits=True), lab.folder)
    assert "unsupported" in said


def test_property_lets_any_driver_move_in(lab: Lab, start: Start) -> None:
    """An old machine type has x-require-iommu-platform=off on both sides."""
    source = start("virtio-rng", requested=False, machine=OLD)
    moving = source.drive()
    moving.go_to_driver_ok()
    destination = start("virtio-rng", waits=True, machine=OLD)
    assert move(source, destination, lab.folder) == ARRIVED
    moving.arrive(destination)
    assert moving.is_served("virtio-rng")


@pytest.mark.parametrize("machine", [OLD, NEW])
@pytest.mark.parametrize("kind", ["virtio-rng", "virtio-blk"])
@pytest.mark.parametrize("leaves", [False, True])
def test_driver_moves_between_fork_and_base(
    lab: Lab, start: Start, other: Build, kind: str, machine: str, leaves: bool
) -> None:
    """In both directions; the driver accepts the bit and is served before and after."""
    builds = (lab.build, other) if leaves else (other, lab.build)
    source = start(kind, build=builds[0], machine=machine)
    moving = source.drive()
    moving.go_to_driver_ok()
    assert moving.is_served(kind)
    destination = start(kind, waits=True, build=builds[1], machine=machine)
    assert move(source, destination, lab.folder) == ARRIVED
    moving.arrive(destination)
    assert moving.is_served(kind)
    again = Driver(moving.transport, moving.memory)
    again.negotiate()
    moving.queue = again.queue(0, QUEUE_SIZE)
    again.start()
    assert moving.is_served(kind)


@pytest.mark.parametrize("leaves", [False, True])
def test_driver_without_the_bit_moves_with_an_old_machine_type(
    lab: Lab, start: Start, other: Build, leaves: bool
) -> None:
    """Between fork and stock QEMU, as the property is off there."""
    builds = (lab.build, other) if leaves else (other, lab.build)
    source = start("virtio-rng", build=builds[0], machine=OLD)
    moving = source.drive(UNWILLING)
    moving.go_to_driver_ok()
    destination = start("virtio-rng", waits=True, build=builds[1], machine=OLD)
    assert move(source, destination, lab.folder) == ARRIVED
    moving.arrive(destination)
    assert moving.is_served("virtio-rng")


@pytest.mark.parametrize("refused", [False, True])
def test_locked_device_moves_and_unlocks(lab: Lab, start: Start, refused: bool) -> None:
    """The driver has not started yet or was refused; the destination, too, requires the bit."""
    source = start("virtio-rng")
    moving = source.drive(UNWILLING)
    moving.transport.reset()
    if refused:
        moving.go_to_driver_ok()
        assert not moving.is_served("virtio-rng")
    destination = start("virtio-rng", waits=True)
    assert move(source, destination, lab.folder) == ARRIVED
    moving.arrive(destination)
    moving.driver = Driver(moving.transport, moving.memory)
    moving.go_to_driver_ok()
    assert moving.is_served("virtio-rng")


def test_locked_device_moves_to_the_other_qemu(lab: Lab, start: Start, other: Build) -> None:
    """The lock does not migrate: the device is not broken in the stream."""
    source = start("virtio-rng")
    moving = source.drive()
    moving.transport.reset()
    destination = start("virtio-rng", waits=True, build=other)
    assert move(source, destination, lab.folder) == ARRIVED
    moving.arrive(destination)
    moving.go_to_driver_ok()
    assert moving.is_served("virtio-rng")


def test_broken_device_moves_broken(lab: Lab, start: Start) -> None:
    """2.1.2: the device stays broken on the destination until the driver resets it."""
    source = start("virtio-rng")
    moving = source.drive()
    moving.go_to_driver_ok()
    assert moving.queue
    # 2.7.6: an available index that is invalid for such a small ring.
    source.machine.qtest.writew(moving.queue.addresses.driver + 2, 10 * QUEUE_SIZE)
    moving.transport.notify(0)
    assert source.is_broken()
    destination = start("virtio-rng", waits=True)
    assert move(source, destination, lab.folder) == ARRIVED
    assert destination.is_broken()
    moving.arrive(destination)
    moving.go_to_driver_ok()
    assert moving.is_served("virtio-rng")
