"""What a back-end must be able to do to translate: the bit, REPLY_ACK and BACKEND_REQ."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine import machine as machines
from qap.machine.catalog import vhost_user_types
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.oracle.features import FeatureBit, mask
from qap.oracle.fence import REFUSAL_PHRASE
from qap.oracle.negotiation import ACCESS_PLATFORM
from qap.verify.kit.checks import assert_lives
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest, ProtocolFeature
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import PciModern

SLOT = 0x10
GIVEN_UP_S = 8.0
EVERY_KIND = tuple(vhost_user_types())
LACKS = (ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ)
# Types that need no protocol feature.
PLAIN = tuple(
    kind
    for kind, row in vhost_user_types().items()
    if row.vhost_user and not row.vhost_user.config and not row.vhost_user.protocol
)


@dataclass
class Offer:
    """A device in front of a back-end that offers ACCESS_PLATFORM and lacks something."""

    backend: Backend
    device: Device
    words: list[str]


@pytest.fixture
def offer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Offer]:
    """Makes such a device; None stands for all protocol features."""
    monkeypatch.setattr(machines, "START_S", GIVEN_UP_S)

    def made(kind: str, lacks: ProtocolFeature | None, *, requested: bool = True) -> Offer:
        backend = lab.backend(kind, access_platform=True)
        if lacks is None:
            backend.features &= ~mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES])
        else:
            backend.protocol_features &= ~mask([lacks])
        row = vhost_user_types()[kind]
        device, words = row.pci(backend.path.stem)
        if row.legacy:
            device = {**device, "disable-legacy": "on"}
        place = {"bus": "pcie.0", "addr": hex(SLOT)}
        return Offer(backend, {**device, **place, "iommu_platform": requested}, words)

    return made


def assert_started_untranslated(lab: Lab, offered: Offer, *, requested: bool) -> None:
    """It plugs, its driver goes on to DRIVER_OK, and the back-end serves plain addresses."""
    machine = lab.machine(offered.device, extra=offered.words, qtest=True)
    (function,) = [found for found in PciBus(machine.qtest).scan() if found.bdf.device == SLOT]
    driver = Driver(PciModern(function), GuestMemory(machine.qtest))
    driver.negotiate()
    assert bool(driver.accepted & ACCESS_PLATFORM) == requested
    driver.queue(0)
    driver.start()
    offered.backend.wait_for(FrontendRequest.SET_VRING_KICK, 10)
    assert not (offered.backend.acked_features or 0) & ACCESS_PLATFORM
    assert_lives(machine)


@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("lacks", LACKS, ids=lambda lacks: lacks.name)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_back_end_need_not_translate_without_an_iommu(
    lab: Lab, offer: Callable[..., Offer], kind: str, lacks: ProtocolFeature, requested: bool
) -> None:
    offered = offer(kind, lacks, requested=requested)
    assert_started_untranslated(lab, offered, requested=requested)


@pytest.mark.parametrize("kind", PLAIN)
def test_back_end_need_not_know_protocol_features(
    lab: Lab, offer: Callable[..., Offer], kind: str
) -> None:
    assert_started_untranslated(lab, offer(kind, None), requested=True)


@pytest.mark.parametrize("lacks", LACKS, ids=lambda lacks: lacks.name)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_back_end_without_the_means_to_translate_is_fenced(
    lab: Lab, offer: Callable[..., Offer], kind: str, lacks: ProtocolFeature
) -> None:
    """Refused as one that does not offer the bit, with a word on what is missing."""
    offered = offer(kind, lacks)
    said = lab.cold_refusal(offered.device, viommu="intel-iommu", extra=offered.words)
    assert REFUSAL_PHRASE in said, said
    assert "without the protocol features REPLY_ACK and BACKEND_REQ" in said


@pytest.mark.parametrize("kind", PLAIN)
def test_back_end_without_protocol_features_is_fenced(
    lab: Lab, offer: Callable[..., Offer], kind: str
) -> None:
    offered = offer(kind, None)
    said = lab.cold_refusal(offered.device, viommu="intel-iommu", extra=offered.words)
    assert REFUSAL_PHRASE in said, said
