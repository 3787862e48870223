"""Random walks of a driver through initialization, compared with a model of virtio 1.3."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qap.fork.build import Build
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.oracle.features import FeatureBit, mask
from qap.oracle.negotiation import ACCESS_PLATFORM, DriverStep, Negotiation, Serves
from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK, accepted_features
from qap.virtio.queue import Buffer, Used
from qap.virtio.split import SplitQueue
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

# 6.3: UNUSED, bit 30, is offered by legacy devices and never accepted.
UNUSED = mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES])
OPTIONAL = (FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX, FeatureBit.RING_RESET)
NEVER_OFFERED = (FeatureBit.RING_PACKED, 50)
MANDATORY = (FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM)
FEATURES = (*MANDATORY, *OPTIONAL, *NEVER_OFFERED)
SOME_OPTIONAL = st.sets(st.sampled_from(OPTIONAL))
SOME_MANDATORY = st.sets(st.sampled_from(MANDATORY), min_size=1)
STATUS_BITS = (
    Status.ACKNOWLEDGE,
    Status.DRIVER,
    Status.FEATURES_OK,
    Status.DRIVER_OK,
    Status.FAILED,
)
# 3.1.1: what a driver adds to the status after these steps.
NEXT_STATUS = {
    DriverStep.RESET: Status.ACKNOWLEDGE,
    DriverStep.ACKNOWLEDGE: Status.DRIVER,
    DriverStep.FEATURES: Status.FEATURES_OK,
    DriverStep.QUEUE: Status.DRIVER_OK,
}
MOST_WAITING = 8
QUIET_ROUNDS = 10
SERVED_S = 5.0
WALKS = settings(
    max_examples=30,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=(HealthCheck.too_slow,),
)

HAVE_FEATURES_OK = ("pci modern", "mmio 2", "ccw 1", "ccw 2")


@dataclass
class Started:
    """A device of a machine that is kept for many walks.

    Attributes:
        requested: whether it has iommu_platform=on.
        served: number of buffers that were used in all walks.
    """

    machine: Machine
    transport: Transport
    requested: bool
    served: int = 0


FindStarted = Callable[[str, bool], Started]


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FindStarted]:
    """Starts each transport variant's machine once, with or without iommu_platform=on."""
    started: dict[tuple[str, bool], Started] = {}
    with ExitStack() as owned:

        def find(name: str, requested: bool) -> Started:
            if (name, requested) not in started:
                variant = TRANSPORTS[name]
                spec = variant.spec("virtio-rng", iommu_platform=requested)
                log = tmp_path_factory.mktemp("negotiation") / "qemu.log"
                binary = Build.under_test().path(variant.emulator)
                machine = owned.enter_context(Machine(binary, spec, log=log))
                started[name, requested] = Started(machine, variant.connect(machine), requested)
            return started[name, requested]

        yield find


class Walk(RuleBasedStateMachine):
    """A driver that takes random steps; the device's state is compared with the model.

    Attributes:
        testbed: the device.
        heads: ids of the chains that are available and not yet used.
        served: number of chains that were used.
    """

    testbed: ClassVar[Started]

    def __init__(self) -> None:
        super().__init__()
        self.transport = self.testbed.transport
        self.memory = GuestMemory(self.testbed.machine.qtest)
        self.served = 0
        self.reset()
        # A register of the transport may keep its value over a reset: clear it for this walk.
        self.transport.set_driver_features(0)
        self.reset()

    def willing(self, features: int) -> int:
        """The part of these random features that this driver may accept."""
        return features & ~UNUSED & (0xFFFF_FFFF if self.transport.legacy else ~0)

    @rule()
    def reset(self) -> None:
        self.transport.reset()
        self.queue: SplitQueue | None = None
        self.heads: set[int] = set()
        self.model = Negotiation(
            self.transport.device_features, self.transport.legacy, self.testbed.requested
        )
        assert self.transport.isr_status() == 0

    @rule(some=st.sets(st.sampled_from(STATUS_BITS), min_size=1))
    def write_status(self, some: set[Status]) -> None:
        self.set_status(Status(sum(some)))

    @rule(bit=st.sampled_from(STATUS_BITS))
    def add_status(self, bit: Status) -> None:
        self.set_status(self.model.status | bit)

    def set_status(self, status: Status) -> None:
        self.transport.set_status(status)
        read = self.transport.status
        assert self.model.allows(status, read), f"{self.model}: wrote {status!r}, read {read!r}"
        self.model.write_status(status, read)

    @rule(some=st.sets(st.sampled_from(FEATURES)))
    def write_features(self, some: set[int]) -> None:
        self.set_features(mask(some))

    @rule(without=SOME_OPTIONAL | SOME_MANDATORY)
    def accept_features(self, without: set[int]) -> None:
        self.set_features(self.model.offered & ~mask(without))

    def set_features(self, features: int) -> None:
        self.transport.set_driver_features(self.willing(features))
        self.model.write_features(self.willing(features))

    @precondition(lambda self: self.queue is None)
    @rule()
    def enable_queue(self) -> None:
        legacy = self.transport.legacy
        entries = self.transport.queue_max(0) if legacy else MOST_WAITING
        features = self.model.features or 0
        event_idx = bool(features >> FeatureBit.EVENT_IDX & 1)
        # 2.7.3: until VERSION_1 is accepted, fields are in the guest's own order.
        modern = bool(
            (self.model.features or 0) & self.model.offered & mask([FeatureBit.VERSION_1])
        )
        big = not modern and self.memory.qtest.endianness() == "big"
        self.queue = SplitQueue(
            self.memory,
            0,
            entries,
            legacy=legacy,
            event_idx=event_idx,
            order=">" if big else "<",
        )
        self.transport.enable_queue(0, self.queue.addresses)
        self.model.enable_queue()

    @rule()
    def notify(self) -> None:
        self.transport.notify(0)
        self.model.notify()

    @precondition(lambda self: self.queue and len(self.heads) < MOST_WAITING)
    @rule()
    def offer_buffer(self) -> None:
        assert self.queue
        room = Buffer(self.memory.take(8), 8, writable=True)
        self.heads.add(self.queue.add([room]))
        self.notify()

    @rule(steps=st.integers(1, 8), without=SOME_OPTIONAL)
    def go_on(self, steps: int, without: set[int]) -> None:
        """Take the next steps of 3.1.1; a driver that left the sequence starts again."""
        for _ in range(steps):
            self.take_step(without)

    @rule(steps=st.integers(1, 8), without=SOME_MANDATORY)
    def go_on_without(self, steps: int, without: set[int]) -> None:
        """The same, without features that a driver should accept."""
        self.go_on(steps=steps, without=without)

    def take_step(self, without: set[int]) -> None:
        step = self.model.step
        if step in NEXT_STATUS and not (self.transport.legacy and step is DriverStep.FEATURES):
            self.set_status(self.model.status | NEXT_STATUS[step])
        elif step is DriverStep.DRIVER:
            self.accept_features(without=without)
        elif step in (DriverStep.FEATURES, DriverStep.FEATURES_OK):
            self.enable_queue()
        elif step is DriverStep.ASTRAY:
            self.reset()
        elif len(self.heads) < MOST_WAITING:
            self.offer_buffer()

    @invariant()
    def status_and_queue_are_as_they_were(self) -> None:
        """For example, DEVICE_NEEDS_RESET is not set by itself."""
        read = self.transport.status
        assert self.model.drifts(read), f"{self.model}: read {read!r}"
        self.model.status = read
        assert self.model.fails or self.transport.queue_enabled(0) == self.model.queue

    @invariant()
    def buffers_are_used_as_the_model_says(self) -> None:
        if self.queue is None:
            return
        if self.model.serves is Serves.MUST:
            while self.heads:
                self.take(self.queue.wait_used(SERVED_S))
        for _ in range(QUIET_ROUNDS):
            used = self.queue.take_used()
            if used:
                assert self.model.serves is not Serves.MUST_NOT, f"{self.model}: was served"
                self.take(used)

    def take(self, used: Used) -> None:
        assert 0 < used.length <= 8
        self.heads.remove(used.id)
        self.served += 1
        self.testbed.served += 1

    def teardown(self) -> None:
        self.transport.reset()


class Unwilling(Walk):
    """A driver that never accepts ACCESS_PLATFORM."""

    def willing(self, features: int) -> int:
        return super().willing(features) & ~ACCESS_PLATFORM


class UnwillingUnserved(Unwilling):
    """It gets no buffer back."""

    @invariant()
    def is_not_served(self) -> None:
        assert not self.served


class UnwillingRefused(Unwilling):
    """It never gets past FEATURES_OK."""

    @invariant()
    def is_not_accepted(self) -> None:
        assert Status.FEATURES_OK not in self.transport.status


def walk(kind: type[Walk], testbed: Started) -> None:
    kind.testbed = testbed
    run_state_machine_as_test(kind, settings=WALKS)


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_device_keeps_to_the_specification(testbed: FindStarted, variant: str) -> None:
    place = testbed(variant, False)
    walk(Walk, place)
    assert place.served


@pytest.mark.parametrize("variant", HAVE_FEATURES_OK)
def test_device_that_asks_for_access_platform_keeps_to_it(
    testbed: FindStarted, variant: str
) -> None:
    place = testbed(variant, True)
    walk(Walk, place)
    assert place.served


# The firmware of s390x is a revision 0 driver; test_fence.py tests its fence.
@pytest.mark.parametrize("variant", [variant for variant in TRANSPORTS if variant != "ccw 0"])
def test_driver_without_access_platform_is_never_served(testbed: FindStarted, variant: str) -> None:
    """A device that is refused at plug serves no driver."""
    try:
        place = testbed(variant, True)
    except QemuDied as died:
        assert died.status == 1, died.said
        return
    walk(UnwillingUnserved, place)


@pytest.mark.parametrize("variant", HAVE_FEATURES_OK)
def test_driver_without_access_platform_is_always_refused(
    testbed: FindStarted, variant: str
) -> None:
    walk(UnwillingRefused, testbed(variant, True))


@pytest.mark.parametrize("variant", HAVE_FEATURES_OK)
def test_features_do_not_outlive_a_reset(testbed: FindStarted, variant: str) -> None:
    """A reset restarts negotiation (2.2): a driver that writes no features then accepts none."""
    place = testbed(variant, True)
    place.transport.reset()
    place.transport.set_driver_features(place.transport.device_features)
    for status in UP_TO_FEATURES_OK:
        place.transport.set_status(status)
    assert accepted_features(place.machine)
    place.transport.reset()
    for status in UP_TO_FEATURES_OK:
        place.transport.set_status(status)
    assert not accepted_features(place.machine)
