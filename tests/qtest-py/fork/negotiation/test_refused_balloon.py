"""QMP balloon, where a driver of virtio-balloon gives ACCESS_PLATFORM back, as Linux's does."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit
from qap.oracle.status import Status
from qap.verify.kit.checks import reset_machine
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Behaviour, Driver, FeaturesRefused
from qap.virtio.transport import Transport
from qap.virtio.transports import RAM_MIB, TRANSPORTS

Start = Callable[..., tuple[Machine, Transport]]
VARIANTS = ("pci modern", "mmio 2", "ccw 1", "ccw 2")
LESS = (RAM_MIB - 16) * MIB
PAGES = 16 * MIB // 4096
GIVES_BACK = Behaviour().without(FeatureBit.ACCESS_PLATFORM)
INSISTS = replace(GIVES_BACK, obeys=False)
# The kernel of a confidential guest looks at what its driver accepted, and gives the device up.
LOOKS = Behaviour(sets_features_ok=False).without(FeatureBit.ACCESS_PLATFORM)


@pytest.fixture
def start(lab: Lab) -> Start:
    def started(name: str, **properties: object) -> tuple[Machine, Transport]:
        variant = TRANSPORTS[name]
        spec = variant.spec("virtio-balloon", (), **{"iommu_platform": True, **properties})
        machine = lab.start(variant.emulator, spec)
        return machine, variant.connect(machine)

    return started


def drive(transport: Transport, behaviour: Behaviour | None = None) -> Driver:
    """A driver that goes on to DRIVER_OK, or sets FAILED if it is refused or its kernel looks."""
    driver = Driver(transport, GuestMemory(transport.qtest), behaviour)
    with suppress(FeaturesRefused):
        last = Status.FAILED if behaviour == LOOKS else Status.DRIVER_OK
        transport.set_status(driver.negotiate() | last)
    return driver


def asked_pages(transport: Transport) -> int:
    """What a driver is asked for: num_pages (virtio 1.3, 5.5.4)."""
    return int.from_bytes(transport.config_read(0, 4), "little")


def assert_fails(machine: Machine, transport: Transport) -> None:
    """The command fails and says of which device and why, and nothing is asked for."""
    before = asked_pages(transport)
    with pytest.raises(QmpRefused) as refused:
        machine.qmp.execute("balloon", value=LESS)
    for said in (refused.value.said, machine.qmp.hmp(f"balloon {LESS // MIB}")):
        assert re.search(r"virtio-balloon '\S*dut\S*': .*did not accept .*ACCESS_PLATFORM", said)
    assert asked_pages(transport) == before


def assert_asked(machine: Machine, transport: Transport) -> None:
    """The command succeeds, and its driver, or the next one, finds what it is asked for."""
    machine.qmp.execute("balloon", value=RAM_MIB * MIB)
    assert asked_pages(transport) == 0
    machine.qmp.execute("balloon", value=LESS)
    assert asked_pages(transport) == PAGES


each_variant = pytest.mark.parametrize("name", VARIANTS)
DRIVERS = {"gives up": GIVES_BACK, "insists": INSISTS, "looks": LOOKS}
each_driver = pytest.mark.parametrize("behaviour", DRIVERS.values(), ids=DRIVERS)


@each_variant
@each_driver
def test_balloon_fails_while_its_driver_is_not_served(
    start: Start, name: str, behaviour: Behaviour
) -> None:
    """Refused by the device, or given up by a kernel that looks first."""
    machine, transport = start(name)
    drive(transport, behaviour)
    assert_fails(machine, transport)


@each_variant
def test_balloon_is_kept_until_there_is_a_driver(start: Start, name: str) -> None:
    machine, transport = start(name)
    assert_asked(machine, transport)
    transport.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    assert_asked(machine, transport)
    drive(transport)
    assert asked_pages(transport) == PAGES
    assert_asked(machine, transport)


@each_variant
@each_driver
def test_balloon_succeeds_again_after_a_reset(
    start: Start, name: str, behaviour: Behaviour
) -> None:
    """Another driver may come: the device's, or after a reset of the machine the next guest's."""
    machine, transport = start(name)
    drive(transport, behaviour)
    assert_fails(machine, transport)
    transport.reset()
    assert_asked(machine, transport)
    drive(transport, behaviour)
    assert_fails(machine, transport)
    drive(transport)
    assert_asked(machine, transport)


@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
@each_driver
def test_balloon_succeeds_again_after_a_system_reset(
    start: Start, name: str, behaviour: Behaviour
) -> None:
    machine, transport = start(name)
    drive(transport, behaviour)
    reset_machine(machine)
    transport = TRANSPORTS[name].connect(machine)
    assert_asked(machine, transport)


@each_variant
@each_driver
def test_balloon_that_does_not_ask_for_the_bit_never_fails(
    start: Start, name: str, behaviour: Behaviour
) -> None:
    """Whatever its driver does: QEMU does not know why it fails."""
    machine, transport = start(name, iommu_platform=False)
    drive(transport, behaviour)
    assert_asked(machine, transport)
    transport.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FAILED)
    assert_asked(machine, transport)


@each_variant
def test_balloon_that_may_lack_the_bit_never_fails(start: Start, name: str) -> None:
    """x-require-iommu-platform=off: its driver is served."""
    machine, transport = start(name, **{"x-require-iommu-platform": False})
    drive(transport, INSISTS)
    assert_asked(machine, transport)
