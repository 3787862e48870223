"""Byte order of device configuration and rings, on a big- and a little-endian guest."""

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from qap.fork.build import Build
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle import config
from qap.virtio.blk import Blk
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

SECTORS = 0x0800
DISK = [f"driver=null-co,node-name=disk0,size={512 * SECTORS},read-zeroes=on"]
MODERN = ("pci modern", "mmio 2", "ccw 1", "ccw 2")
LEGACY = ("pci legacy", "mmio 1", "ccw 0")
CCW = ("ccw 0", "ccw 1", "ccw 2")
ORDERS = {"little": "<", "big": ">"}
Reach = Callable[[str], Transport]


@pytest.fixture
def reach() -> Iterator[Reach]:
    """A disk of 0x800 sectors behind a transport; this number differs if its bytes are swapped."""
    with ExitStack() as owned:

        def connected(name: str) -> Transport:
            variant = TRANSPORTS[name]
            binary = Build.under_test().path(variant.emulator)
            spec = variant.spec("virtio-blk", DISK, drive="disk0")
            return variant.connect(owned.enter_context(Machine(binary, spec)))

        yield connected


def capacity(order: str) -> bytes:
    return struct.pack(f"{order}Q", SECTORS)


def drive(transport: Transport) -> Blk:
    behaviour = Behaviour(0, sets_features_ok=False) if transport.legacy else None
    driver = Driver(transport, GuestMemory(transport.qtest), behaviour)
    driver.negotiate()
    return Blk(driver)


@pytest.mark.parametrize("variant", MODERN)
def test_modern_driver_reads_little_endian_configuration(reach: Reach, variant: str) -> None:
    """2.5.3: it is little-endian on any guest."""
    transport = reach(variant)
    assert drive(transport).capacity == SECTORS
    assert transport.config_read(0, 8) == capacity("<")


@pytest.mark.parametrize("variant", LEGACY)
def test_legacy_driver_reads_configuration_in_the_guests_order(reach: Reach, variant: str) -> None:
    """2.5.4: a legacy driver's fields are the guest's own."""
    transport = reach(variant)
    order = config.order("legacy", "big" if variant in CCW else "little")
    assert drive(transport).capacity == SECTORS
    assert transport.config_read(0, 8) == capacity(ORDERS[order])


@pytest.mark.parametrize("variant", [*MODERN, *LEGACY])
def test_requests_are_served_in_the_order_of_the_rings(reach: Reach, variant: str) -> None:
    """2.7.3: a request's header and the rings are in the same order; sector 3 is not 3 << 56."""
    disk = drive(reach(variant))
    assert disk.read(3) == bytes(512)


@pytest.mark.parametrize("variant", MODERN)
def test_configuration_has_its_order_before_the_features(reach: Reach, variant: str) -> None:
    """2.5.3 makes no exception for a driver that has not accepted VERSION_1 yet."""
    transport = reach(variant)
    transport.reset()
    order = config.order("modern", "big" if variant in CCW else "little")
    assert transport.config_read(0, 8) == capacity(ORDERS[order])
