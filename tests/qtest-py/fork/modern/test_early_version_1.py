"""A vhost-user back-end learns of a modern driver before it serves configuration to it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from qap.host.wait import poll_until
from qap.machine.catalog import VhostUser, vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import UP_TO_FEATURES_OK, assert_lives
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import Disconnected, FrontendRequest, ProtocolFeature
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

R = FrontendRequest
WAIT_S = 20.0
# What is told: VERSION_1, and the bit without which protocol features would end.
TOLD = mask([FeatureBit.VERSION_1, FeatureBit.VHOST_USER_PROTOCOL_FEATURES])
# Whose configuration is the back-end's.
SERVED: dict[str, VhostUser] = {
    kind: row.vhost_user
    for kind, row in vhost_user_types().items()
    if row.vhost_user and row.vhost_user.config
}
RECONNECTING = [kind for kind, served in SERVED.items() if served.reconnects]
# QEMU asks again whenever the driver reads; of the others it keeps what it has read.
ASKED_EACH_TIME = tuple(f"vhost-user-{name}" for name in ("gpio", "input", "snd", "gpu", "vga"))


@dataclass
class Plugged:
    """A cold-plugged device that has been reset, and its back-end, which has forgotten that."""

    machine: Machine
    backend: Backend
    transport: Transport

    def told(self) -> list[int]:
        """The features that the back-end was given, one after the other."""
        with suppress(NoAnswer, Disconnected):
            self.backend.settle()
        return [message.words[0] for message in self.backend.requests(R.SET_FEATURES)]


def plugged(
    lab: Lab,
    kind: str,
    variant: str = "pci modern",
    *,
    chardev: str = "",
    protocol: Sequence[ProtocolFeature] = (),
) -> Plugged:
    """A device of this type.

    Args:
        chardev: more of its chardev's options.
        protocol: more protocol features that its back-end has.
    """
    backend = lab.backend(kind)
    backend.protocol_features |= mask(protocol)
    machine = lab.cold_plugged(kind, backend, variant, chardev=chardev)
    here = Plugged(machine, backend, TRANSPORTS[variant].connect(machine))
    here.transport.reset()
    backend.settle()
    backend.forget()
    return here


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        (kind, variant)
        for kind in SERVED
        for transport, variant in (("pci", "pci modern"), ("mmio", "mmio 2"))
        if transport in vhost_user_types()[kind].transports
    ],
)
def test_back_end_is_told_before_configuration_is_read(lab: Lab, kind: str, variant: str) -> None:
    """Once, and of nothing but VERSION_1."""
    here = plugged(lab, kind, variant)
    for _ in range(2):
        here.transport.config_read(0, 4)
    for status in UP_TO_FEATURES_OK[:2]:
        here.transport.set_status(status)
        here.transport.config_read(0, 4)
    assert here.told() == [TOLD]
    asked = [message.request for message in here.backend.received]
    assert asked[0] == R.SET_FEATURES
    assert (R.GET_CONFIG in asked) is (kind in ASKED_EACH_TIME)


@pytest.mark.parametrize("kind", ["vhost-user-gpio", "vhost-user-input", "vhost-user-snd"])
def test_back_end_is_told_before_configuration_is_written(lab: Lab, kind: str) -> None:
    here = plugged(lab, kind)
    here.transport.config_write(0, b"\1")
    assert here.told() == [TOLD]
    asked = [message.request for message in here.backend.received]
    assert asked.index(R.SET_FEATURES) < asked.index(R.SET_CONFIG)


@pytest.mark.parametrize("kind", SERVED)
def test_nothing_is_told_early_of_a_driver_that_reads_no_configuration(lab: Lab, kind: str) -> None:
    here = plugged(lab, kind)
    Driver(here.transport, GuestMemory(here.transport.qtest)).negotiate()
    assert here.told() == []


@pytest.mark.parametrize("variant", ["pci legacy", "mmio 1"])
def test_nothing_is_told_of_a_legacy_driver(lab: Lab, variant: str) -> None:
    """vhost-user-blk is the only type with a legacy interface whose back-end has configuration."""
    here = plugged(lab, "vhost-user-blk", variant)
    assert here.transport.legacy
    here.transport.config_read(0, 8)
    for status in UP_TO_FEATURES_OK[:2]:
        here.transport.set_status(status)
        here.transport.config_read(0, 8)
    assert here.told() == []


@pytest.mark.parametrize("kind", SERVED)
def test_driver_is_served_with_the_features_that_it_accepts(lab: Lab, kind: str) -> None:
    """What was told early is not what the rings are served with."""
    here = plugged(lab, kind)
    here.transport.config_read(0, 4)
    supports = mask([FeatureBit.VERSION_1, FeatureBit.INDIRECT_DESC])
    driver = Driver(here.transport, GuestMemory(here.transport.qtest), Behaviour(supports))
    driver.negotiate()
    driver.queue(0)
    driver.start()
    here.backend.wait_for(R.SET_VRING_KICK, WAIT_S)
    assert here.told()[0] == TOLD
    assert here.told()[-1] == TOLD | driver.accepted
    assert driver.accepted & mask([FeatureBit.INDIRECT_DESC])


@pytest.mark.parametrize("kind", SERVED)
@pytest.mark.parametrize("forgets", [False, True])
def test_back_end_is_told_again_only_if_a_reset_makes_it_forget(
    lab: Lab, kind: str, *, forgets: bool
) -> None:
    """RESET_DEVICE does; not every type sends it."""
    here = plugged(lab, kind, protocol=[ProtocolFeature.RESET_DEVICE] if forgets else [])
    here.transport.config_read(0, 4)
    here.transport.reset()
    here.transport.config_read(0, 4)
    told = here.told()
    forgot = len(here.backend.requests(R.RESET_DEVICE))
    assert forgot <= forgets
    assert told == [TOLD] * (1 + forgot)


@pytest.mark.parametrize("kind", RECONNECTING)
def test_back_end_that_comes_back_is_told_again(lab: Lab, kind: str) -> None:
    """Between detection and FEATURES_OK."""
    here = plugged(lab, kind, chardev=",reconnect-ms=10")
    here.transport.config_read(0, 4)
    here.backend.forget()
    here.backend.hang_up()
    poll_until(
        lambda: (here.transport.config_read(0, 4) and here.told()) or None,
        WAIT_S,
        lambda: "the back-end that came back to be told",
    )
    here.transport.config_read(0, 4)
    assert here.told() == [TOLD]


@pytest.mark.parametrize("kind", SERVED)
def test_back_end_that_dies_of_it_ends_nothing_else(lab: Lab, kind: str) -> None:
    here = plugged(lab, kind)
    here.backend.misbehaviour = [HangUp(request=R.SET_FEATURES)]
    here.transport.config_read(0, 4)
    here.backend.wait_for(R.SET_FEATURES, WAIT_S)
    assert_lives(here.machine)
    here.transport.config_read(0, 4)
    here.transport.reset()
    assert_lives(here.machine)
