"""Back-ends with other features after a reconnect, and devices that must not use them."""

import pytest

from qap.host.wait import poll_until
from qap.machine.catalog import vhost_user_types
from qap.machine.chardev import COMMANDS
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.checks import (
    assert_lives,
    assert_served,
    driven,
    negotiated,
    wait_chardev,
)
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.misbehave import FlipFeatures, HangUp
from qap.vhost_user.protocol import FrontendRequest, ProtocolFeature
from qap.virtio.queue import Buffer

R = FrontendRequest
WAIT_S = 20
SIZE = 16
BASE_KINDS = [f"vhost-user-{name}" for name in ("rng", "i2c", "gpio", "input", "snd")]
# Devices that reconnect.
RECONNECTING = ["vhost-user-blk", "vhost-user-scsi", "vhost-user-rng"]
CONNECTIONS_IN_EIGHT_TRIES = 8
GIVEN_UP_S = 8.0


def reconnecting(
    lab: Lab, kind: str, behind: Backend, viommu: str = "none", *, requested: bool | None = None
) -> Machine:
    """A machine with that device, whose chardev reconnects soon after a disconnect.

    ACCESS_PLATFORM is requested if there is an IOMMU, unless `requested` says otherwise.
    """
    lab.backends.clear()
    machine: Machine = lab.machine(viommu=viommu, qtest=True)
    address = {"type": "unix", "data": {"path": str(behind.path)}}
    socket = {"addr": address, "server": False, "reconnect-ms": 10}
    name = behind.path.stem
    machine.qmp.execute("chardev-add", id=name, backend={"type": "socket", "data": socket})
    wait_chardev(machine, name, connected=True)
    device_type = vhost_user_types()[kind]
    device, _ = device_type.pci(name)
    if device_type.vhost_user and (between := device_type.vhost_user.between):
        said = COMMANDS[between.option]
        named = {said.type: between.type, "id": device[between.property], "chardev": name}
        machine.qmp.execute(said.add, **named)
    platform = viommu != "none" if requested is None else requested
    machine.plug({**device, "bus": "port0", "iommu_platform": platform})
    return machine


def wait_connections(machine: Machine, behind: Backend, times: int) -> None:
    """Wait until QEMU has connected this many times, and run its main loop meanwhile."""
    poll_until(
        lambda: (machine.qtest.endianness() and behind.connections >= times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end at {behind.path}",
    )


def wait_started(machine: Machine, behind: Backend) -> None:
    """Wait for SET_VRING_KICK at the back-end, and run QEMU's main loop meanwhile."""
    poll_until(
        lambda: (machine.qtest.endianness() and behind.requests(R.SET_VRING_KICK)) or None,
        WAIT_S,
        lambda: "the device to be started with the back-end that came back",
    )


def assert_waits_for_its_like(lab: Lab, kind: str, lost: FeatureBit) -> Machine:
    """A device is not started while its back-end lacks a bit, and is when it has it again."""
    behind = lab.backend(kind, access_platform=True)
    behind.features |= mask([lost])
    machine = reconnecting(lab, kind, behind, viommu="intel-iommu")
    driver = negotiated(machine, lost)
    assert driver.has(lost)
    queue = driver.queue(0)
    driver.start()
    assert_served(driver, queue)
    offered = behind.features
    behind.features = offered & ~mask([lost])
    behind.forget()
    before = behind.connections
    behind.hang_up()
    wait_connections(machine, behind, before + 3)
    assert behind.requests(R.SET_VRING_ADDR) == []
    assert (behind.acked_features or 0) & mask([lost]) == 0
    behind.features = offered
    wait_started(machine, behind)
    assert_served(driver, queue)
    return machine


@pytest.mark.parametrize("lost", [FeatureBit.ACCESS_PLATFORM, FeatureBit.VERSION_1])
@pytest.mark.parametrize("kind", RECONNECTING)
def test_lesser_back_end_is_not_started(lab: Lab, kind: str, lost: FeatureBit) -> None:
    """It is told of no ring while it lacks the bit, and serves again when it has it."""
    assert_waits_for_its_like(lab, kind, lost)


@pytest.mark.parametrize("lost", [FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX])
@pytest.mark.parametrize("kind", [*RECONNECTING, "vhost-user-crypto"])
def test_back_end_that_lost_a_ring_feature_is_not_started(
    lab: Lab, kind: str, lost: FeatureBit
) -> None:
    """The driver goes on using what it accepted, and a back-end is not given what it lacks."""
    assert_waits_for_its_like(lab, kind, lost)


@pytest.mark.parametrize("lost", [FeatureBit.ACCESS_PLATFORM, FeatureBit.VERSION_1])
def test_crypto_device_survives_its_back_end(lab: Lab, lost: FeatureBit) -> None:
    """It checks the next back-end as other devices do, and says what that one doesn't have."""
    machine = assert_waits_for_its_like(lab, "vhost-user-crypto", lost)
    assert "are not created again" in machine.process.tail()


def test_crypto_request_waits_for_a_back_end(lab: Lab) -> None:
    """QEMU can't serve it, as it has no session of the driver's."""
    behind = lab.backend("vhost-user-crypto")
    machine = reconnecting(lab, "vhost-user-crypto", behind)
    behind.misbehaviour = [HangUp(request=R.SET_VRING_ADDR)]
    driver, queue = driven(machine)
    room = driver.memory.take(SIZE)
    queue.add([Buffer(room, SIZE, writable=True)])
    driver.transport.notify(queue.index)
    assert_lives(machine)
    assert not driver.transport.status & Status.DEVICE_NEEDS_RESET
    assert queue.take_used() is None
    behind.misbehaviour = []
    assert queue.wait_used(WAIT_S).length == SIZE


@pytest.mark.parametrize("lost", [ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ])
@pytest.mark.parametrize("kind", [*RECONNECTING, "vhost-user-net", "vhost-user-crypto"])
def test_back_end_that_lost_the_means_to_translate_is_not_started(
    lab: Lab, kind: str, lost: ProtocolFeature
) -> None:
    """It still offers ACCESS_PLATFORM, but can't ask for translations any more."""
    behind = lab.backend(kind, access_platform=True)
    machine = reconnecting(lab, kind, behind, viommu="intel-iommu")
    driver, queue = driven(machine)
    assert_served(driver, queue)
    offered = behind.protocol_features
    behind.protocol_features = offered & ~mask([lost])
    behind.forget()
    before = behind.connections
    behind.hang_up()
    wait_connections(machine, behind, before + 3)
    assert behind.requests(R.SET_VRING_ADDR) == []
    behind.protocol_features = offered
    wait_started(machine, behind)
    assert_served(driver, queue)


def test_network_back_end_need_not_offer_what_none_was_given(lab: Lab) -> None:
    """Without an IOMMU no back-end is given ACCESS_PLATFORM, even if the first one offered it."""
    behind = lab.backend("vhost-user-net", access_platform=True)
    machine = reconnecting(lab, "vhost-user-net", behind, requested=True)
    driver, queue = driven(machine)
    assert_served(driver, queue)
    behind.features &= ~mask([FeatureBit.ACCESS_PLATFORM])
    behind.forget()
    behind.hang_up()
    wait_started(machine, behind)
    assert_served(driver, queue)


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_base_device_survives_its_back_end(lab: Lab, kind: str) -> None:
    """Both without and with a driver; the next connection goes on serving."""
    behind = lab.backend(kind)
    machine = reconnecting(lab, kind, behind)
    for _ in range(2):
        before = behind.connections
        behind.hang_up()
        wait_connections(machine, behind, before + 1)
    driver, queue = driven(machine)
    behind.forget()
    behind.hang_up()
    wait_started(machine, behind)
    if kind != "vhost-user-input":  # its first queue is for events of the device
        assert_served(driver, queue)


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_base_device_without_features_is_refused(lab: Lab, kind: str) -> None:
    """The back-end answers the second GET_FEATURES with 0."""
    path = lab.folder / "forgetful.sock"
    forgetful = backend(
        path, kind, access_platform=False, misbehaviour=[FlipFeatures(0, from_request=2)]
    )
    behind = lab.owned.enter_context(forgetful)
    lab.backends.append(behind)
    said = lab.cold_refusal({**lab.device(kind, behind), "iommu_platform": False})
    assert "offers no features" in said


def test_cryptodev_refuses_an_unfit_back_end(lab: Lab) -> None:
    """It has fewer queues than the device; QEMU runs on."""
    behind = lab.backend("vhost-user-crypto", access_platform=True)
    behind.queues = 1
    machine = lab.machine()
    said = COMMANDS["-object"]
    with pytest.raises(QmpRefused, match="can't be used"):
        named = {said.type: "cryptodev-vhost-user", "id": "crypto0", "chardev": behind.path.stem}
        machine.qmp.execute(said.add, **named, queues=2)
    machine.qmp.execute("query-status")
