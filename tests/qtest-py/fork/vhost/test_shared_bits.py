"""Feature bits of rings and transports, which a device must share with its back-end."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit as F
from qap.oracle.features import bits, mask, names
from qap.verify.kit.lab import Lab
from qap.verify.kit.ring_properties import LEGACY_ONLY, RING_PROPERTIES
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

TOLD_S = 10.0
OLD_MACHINE = "pc-q35-9.2"
EVERY_KIND = tuple(vhost_user_types())
BASE_KINDS = tuple(f"vhost-user-{name}" for name in ("rng", "i2c", "gpio", "input", "snd"))
# What a back-end has a part in: who serves a ring must know of it.
SHARED = (*RING_PROPERTIES, F.VERSION_1, F.ORDER_PLATFORM, F.NOTIFICATION_DATA)
# What only a transport can do; QEMU's do none of it for a vhost-user device.
TRANSPORTS_OWN = (F.SR_IOV, F.NOTIFICATION_DATA, F.NOTIF_CONFIG_DATA, F.ADMIN_VQ)
NEVER_LEGACY = "vhost-user-vga"
NOWHERE = {(NEVER_LEGACY, bit) for bit in LEGACY_ONLY}
EVERY_BIT = tuple(sorted({*SHARED, *TRANSPORTS_OWN}))


@dataclass
class Plugged:
    """A cold-plugged device and its back-end."""

    machine: Machine
    backend: Backend
    transport: Transport


def plugged(
    lab: Lab,
    kind: str,
    backend_has: Iterable[F],
    properties: Mapping[str, Any],
    *,
    variant: str = "pci modern",
    machine_type: str | None = None,
) -> Plugged:
    """A device with these properties, whose back-end has exactly these bits of EVERY_BIT."""
    backend = lab.backend(kind)
    backend.features = backend.features & ~mask(EVERY_BIT) | mask(backend_has)
    machine = lab.cold_plugged(
        kind, backend, variant, properties=properties, machine_type=machine_type
    )
    return Plugged(machine, backend, TRANSPORTS[variant].connect(machine))


def offers(
    lab: Lab, kind: str, backend_has: Iterable[F], *, on: bool = True, legacy: bool = False
) -> int:
    """What is offered with all of RING_PROPERTIES on or off; its QEMU ends at once.

    Args:
        legacy: on a legacy interface, which every type but vhost-user-vga has on MMIO.
    """
    variant = "mmio 1" if legacy else "pci modern"
    with ExitStack() as owned:
        here = Lab(lab.build, lab.folder, owned)
        properties = dict.fromkeys(RING_PROPERTIES.values(), on)
        return plugged(
            here, kind, backend_has, properties, variant=variant
        ).transport.device_features


def everything_offered(lab: Lab, kind: str, backend_has: Iterable[F], *, on: bool = True) -> int:
    """What is offered on a modern interface and on a legacy one, where there is one."""
    modern = offers(lab, kind, backend_has, on=on) & ~mask(LEGACY_ONLY)
    if kind == NEVER_LEGACY:
        return modern
    return modern | offers(lab, kind, backend_has, on=on, legacy=True) & mask(LEGACY_ONLY)


def test_no_bit_is_offered_that_the_back_end_lacks(lab: Lab) -> None:
    """For every type and bit. vhost-user, SET_FEATURES: only bits that GET_FEATURES returned.

    Without VERSION_1 there is no modern device: test_modern_device_needs_a_modern_back_end.
    """
    wrong = {
        f"{kind} {lacked.name}"
        for kind in EVERY_KIND
        for lacked in SHARED
        if lacked != F.VERSION_1 and (kind, lacked) not in NOWHERE
        if offers(lab, kind, {*SHARED} - {lacked}, legacy=lacked in LEGACY_ONLY) & mask([lacked])
    }
    assert wrong == set()


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_bit_is_offered_that_both_have(lab: Lab, kind: str) -> None:
    """The test above could fail: a bit with a property is offered if the back-end has it."""
    offered = everything_offered(lab, kind, SHARED)
    able = [bit for bit in RING_PROPERTIES if (kind, bit) not in NOWHERE and bit != F.RING_RESET]
    assert names(bit for bit in able if not offered & mask([bit])) == []


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_ring_reset_is_not_offered_with_vhost_user(lab: Lab, kind: str) -> None:
    """2.6.1: the protocol has no request by which a back-end would let go of a queue."""
    assert not offers(lab, kind, SHARED) & mask([F.RING_RESET])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_old_machine_type_offers_ring_reset(lab: Lab, kind: str) -> None:
    here = plugged(lab, kind, SHARED, {}, machine_type=OLD_MACHINE)
    assert here.transport.device_features & mask([F.RING_RESET])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_back_end_is_given_what_the_driver_accepted(lab: Lab, kind: str) -> None:
    """Both must have the same idea of the rings."""
    here = plugged(lab, kind, SHARED, dict.fromkeys(RING_PROPERTIES.values(), True))
    driver = Driver(here.transport, GuestMemory(here.machine.qtest), Behaviour(mask(range(64))))
    driver.negotiate()
    for index in range(driver_queues(here.transport)):
        driver.queue(index)
    driver.start()
    here.backend.wait_for(FrontendRequest.SET_VRING_KICK, TOLD_S)
    given = here.backend.acked_features or 0
    assert names(bits((given ^ driver.accepted) & mask(SHARED))) == []


def driver_queues(transport: Transport) -> int:
    """How many queues a device has."""
    return next(index for index in range(64) if not transport.queue_max(index))


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_property_takes_a_bit_away(lab: Lab, kind: str) -> None:
    """A property that is off counts, whatever the back-end has."""
    offered = everything_offered(lab, kind, SHARED, on=False)
    assert names(bit for bit in RING_PROPERTIES if offered & mask([bit])) == []


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_base_device_obeys_its_properties(lab: Lab, kind: str) -> None:
    """By default, too: packed rings and in-order use have to be asked for."""
    here = plugged(lab, kind, SHARED, {"indirect_desc": False, "event_idx": False})
    unasked = (F.INDIRECT_DESC, F.EVENT_IDX, F.RING_PACKED, F.IN_ORDER)
    assert names(bit for bit in unasked if here.transport.device_features & mask([bit])) == []


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_base_device_offers_nothing_that_its_transport_cannot_do(lab: Lab, kind: str) -> None:
    """6: a transport's own bits are not the back-end's to offer."""
    offered = offers(lab, kind, EVERY_BIT)
    assert names(bit for bit in TRANSPORTS_OWN if offered & mask([bit])) == []


@pytest.mark.parametrize(
    ("kind", "bit"),
    [
        ("vhost-user-gpu", F.EVENT_IDX),
        ("vhost-user-crypto", F.EVENT_IDX),
        ("vhost-user-scsi", F.VERSION_1),
        ("vhost-user-scsi", F.RING_PACKED),
        *((kind, F.RING_PACKED) for kind in BASE_KINDS),
    ],
)
@pytest.mark.parametrize(
    ("machine_type", "properties"),
    [
        (OLD_MACHINE, {}),
        (None, {"x-vhost-ring-features": False, "x-ring-features-on-request": False}),
    ],
)
def test_old_machine_type_offers_what_it_did(
    lab: Lab, kind: str, bit: F, machine_type: str | None, properties: Mapping[str, bool]
) -> None:
    """It has both properties off. Its guests find their features, and the device starts."""
    base = kind in BASE_KINDS
    known = {name: value for name, value in properties.items() if base or "request" not in name}
    if not base:
        known["packed"] = True
    has = {*SHARED} if base else {*SHARED} - {bit}
    here = plugged(lab, kind, has, known, machine_type=machine_type)
    driver = Driver(here.transport, GuestMemory(here.machine.qtest), Behaviour(mask(SHARED)))
    driver.negotiate()
    assert driver.accepted & mask([bit])
    driver.queue(0)
    driver.start()
    here.backend.wait_for(FrontendRequest.SET_VRING_KICK, TOLD_S)
