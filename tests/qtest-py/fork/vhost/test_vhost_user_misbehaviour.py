"""A vhost-user back-end that misbehaves: QEMU reports an error and goes on."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from qap.machine.catalog import vhost_user_types
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit, mask
from qap.oracle.fence import REFUSAL_PHRASE
from qap.verify.kit.checks import assert_lives, assert_served, negotiated
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.backends import FEATURES
from qap.vhost_user.misbehave import (
    FlipFeatures,
    Garble,
    HangUp,
    Misbehaviour,
    Mute,
    Nack,
    Silence,
    WrongUsed,
)
from qap.vhost_user.protocol import (
    REPLY,
    VERSION,
    BackendRequest,
    Disconnected,
    FrontendRequest,
)
from qap.virtio.driver import Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import VirtioError

R = FrontendRequest

# A device type for each way in which QEMU's devices connect and start.
KINDS = ("vhost-user-blk", "vhost-user-fs", "vhost-user-rng", "vhost-user-scsi", "vhost-user-vsock")
# Devices that are derived from vhost-user-base.
BASE_KINDS = tuple(f"vhost-user-{name}" for name in ("rng", "i2c", "gpio", "input", "snd"))
# Devices that read configuration space when they are plugged.
CONFIG_KINDS = ("vhost-user-blk", "vhost-user-vsock")
SAID_S = 20
NEVER_S = 0.2

BAD_REPLIES: dict[str, Misbehaviour] = {
    "features too short": Garble(R.GET_FEATURES, size=4),
    "features too long": Garble(R.GET_FEATURES, size=16),
    "features empty": Garble(R.GET_FEATURES, size=0),
    "more than any message": Garble(R.GET_FEATURES, size=4000),
    "reply to another request": Garble(R.GET_FEATURES, number=R.GET_QUEUE_NUM),
    "reply to no request": Garble(R.GET_FEATURES, number=99),
    "reply flag missing": Garble(R.GET_FEATURES, flags=VERSION),
    "bad version": Garble(R.GET_FEATURES, flags=2 | REPLY),
    "protocol features too short": Garble(R.GET_PROTOCOL_FEATURES, size=4),
    "reply to another than protocol features": Garble(R.GET_PROTOCOL_FEATURES, number=R.SET_OWNER),
    "number of queues too long": Garble(R.GET_QUEUE_NUM, size=12),
    "back-end channel nacked": Nack(R.SET_BACKEND_REQ_FD),
    "no features at all": FlipFeatures(0),
    "hung up at once": HangUp(1),
    "hung up at the second question": HangUp(2),
    "hung up at SET_OWNER": HangUp(request=R.SET_OWNER),
    "hung up when asked for features again": HangUp(2, R.GET_FEATURES),
}
BAD_CONFIG: dict[str, Misbehaviour] = {
    "too short": Garble(R.GET_CONFIG, size=4),
    "empty": Garble(R.GET_CONFIG, size=0),
    "of another request": Garble(R.GET_CONFIG, number=R.SET_CONFIG),
    "hung up": HangUp(request=R.GET_CONFIG),
}
SILENCES: dict[str, Misbehaviour] = {
    "mute": Mute(),
    "silent on features": Silence(R.GET_FEATURES),
    "silent on protocol features": Silence(R.GET_PROTOCOL_FEATURES),
    "silent on the back-end channel": Silence(R.SET_BACKEND_REQ_FD),
}


def misbehaving(
    lab: Lab, kind: str, *rules: Misbehaviour, access_platform: bool = False
) -> Backend:
    backend = lab.backend(kind, access_platform=access_platform)
    backend.misbehaviour = rules
    return backend


def device(kind: str, backend: Backend) -> Device:
    properties, _ = vhost_user_types()[kind].pci(backend.path.stem)
    return {**properties, "id": "dut", "bus": "port0"}


def running(
    lab: Lab, kind: str, rules: Sequence[Misbehaviour] = ()
) -> tuple[Backend, Machine, Driver]:
    """A plugged device, whose back-end has behaved so far, and a driver after negotiation."""
    backend = lab.backend(kind)
    machine = lab.machine(device(kind, backend), qtest=True)
    backend.misbehaviour = rules
    driver = negotiated(machine)
    return backend, machine, driver


def assert_takes_another(machine: Machine, kind: str, good: Backend) -> None:
    """The slot is free: a device with a well-behaved back-end is plugged and served there."""
    assert_lives(machine)
    machine.plug(device(kind, good))
    driver = negotiated(machine)
    queue = driver.queue(0)
    driver.start()
    assert_served(driver, queue)


@pytest.mark.parametrize("rule", BAD_REPLIES)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_reply_fails_the_plug(lab: Lab, kind: str, rule: str) -> None:
    bad = misbehaving(lab, kind, BAD_REPLIES[rule])
    good = lab.backend(kind)
    machine = lab.machine(qtest=True)
    assert machine.refusal(device(kind, bad))
    assert_takes_another(machine, kind, good)


@pytest.mark.parametrize("rule", BAD_CONFIG)
@pytest.mark.parametrize("kind", CONFIG_KINDS)
def test_bad_configuration_fails_the_plug(lab: Lab, kind: str, rule: str) -> None:
    bad = misbehaving(lab, kind, BAD_CONFIG[rule])
    good = lab.backend(kind)
    machine = lab.machine(qtest=True)
    assert machine.refusal(device(kind, bad))
    assert_takes_another(machine, kind, good)


@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("kind", KINDS)
def test_silence_lasts_until_the_back_end_leaves(lab: Lab, kind: str, silence: str) -> None:
    """QEMU waits without a limit; when the back-end leaves, the plug fails."""
    bad = misbehaving(lab, kind, SILENCES[silence])
    good = lab.backend(kind)
    machine = lab.machine(qtest=True)
    with ThreadPoolExecutor() as pool:
        plugging = pool.submit(machine.plug, device(kind, bad))
        with pytest.raises(TimeoutError):
            plugging.result(NEVER_S)
        bad.misbehaviour = [Mute()]
        bad.close()
        with pytest.raises(QmpRefused):
            plugging.result(SAID_S)
    assert_takes_another(machine, kind, good)


# features that change


@pytest.mark.parametrize("kind", ["vhost-user-blk", "vhost-user-fs", "vhost-user-rng"])
def test_last_answer_counts_for_the_fence(lab: Lab, kind: str) -> None:
    """ACCESS_PLATFORM is gone at the second GET_FEATURES of a plug: it isn't offered."""
    without = mask([*FEATURES, FeatureBit.VERSION_1])
    bad = misbehaving(lab, kind, FlipFeatures(without, from_request=2), access_platform=True)
    said = lab.cold_refusal(lab.device(kind, bad), viommu="intel-iommu")
    assert REFUSAL_PHRASE in said


@pytest.mark.parametrize(
    "kind",
    [
        "vhost-user-blk",
        "vhost-user-fs",
        "vhost-user-rng",
        "vhost-user-scsi",
        "vhost-user-vsock",
    ],
)
def test_features_that_all_go_away_are_survived(lab: Lab, kind: str) -> None:
    bad = misbehaving(lab, kind, FlipFeatures(0, from_request=2))
    machine = lab.machine(qtest=True)
    machine.refusal(device(kind, bad))
    assert_lives(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_every_feature_at_once_is_survived(lab: Lab, kind: str) -> None:
    bad = misbehaving(lab, kind, FlipFeatures((1 << 64) - 1, from_request=2))
    machine = lab.machine(qtest=True)
    machine.refusal(device(kind, bad))
    assert_lives(machine)


@pytest.mark.parametrize("kind", ["vhost-user-blk", "vhost-user-scsi"])
def test_storage_is_asked_again_on_a_new_connection(lab: Lab, kind: str) -> None:
    """These devices connect more than once when they are plugged."""
    backend = misbehaving(lab, kind, HangUp(until_connection=2))
    machine = lab.machine(device(kind, backend), qtest=True)
    assert_lives(machine)
    assert backend.connections == 3


def test_features_of_the_new_connection_count_for_the_fence(lab: Lab) -> None:
    without = mask([*FEATURES, FeatureBit.VERSION_1])
    rules = HangUp(2, R.GET_FEATURES, until_connection=1), FlipFeatures(without, from_connection=2)
    bad = misbehaving(lab, "vhost-user-blk", *rules, access_platform=True)
    said = lab.cold_refusal(lab.device("vhost-user-blk", bad), viommu="intel-iommu")
    assert REFUSAL_PHRASE in said
    assert bad.connections == 2


# requests that fail or get a wrong reply at run time


@pytest.mark.parametrize(
    "request_", [R.SET_MEM_TABLE, R.SET_VRING_ENABLE], ids=lambda request_: request_.name
)
@pytest.mark.parametrize("kind", KINDS)
def test_nacked_start_serves_nothing(lab: Lab, kind: str, request_: R) -> None:
    backend, machine, driver = running(lab, kind, [Nack(request_)])
    queue = driver.queue(0)
    driver.start()
    queue.add([Buffer(driver.memory.take(16), 16, writable=True)])
    driver.transport.notify(0)
    # Storage devices close the connection, before or while the back-end is asked.
    with suppress(NoAnswer, Disconnected):
        backend.settle()
    assert queue.take_used() is None
    assert backend.served == []
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize(
    "rule",
    [
        Garble(R.GET_VRING_BASE, size=4),
        Garble(R.GET_VRING_BASE, number=R.SET_VRING_BASE),
        Garble(R.GET_VRING_BASE, payload=b"\xff" * 8),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_ring_base_is_survived(lab: Lab, kind: str, rule: Misbehaviour) -> None:
    backend, machine, driver = running(lab, kind)
    queue = driver.queue(0)
    driver.start()
    assert_served(driver, queue)
    backend.misbehaviour = [rule]
    driver.transport.reset()
    assert_lives(machine)


# used rings


def test_id_that_was_never_made_available_is_the_drivers_to_notice(lab: Lab) -> None:
    """QEMU doesn't check a used ring that a back-end writes; the machine goes on."""
    _, machine, driver = running(lab, "vhost-user-rng", [WrongUsed(id=63)])
    queue = driver.queue(0)
    driver.start()
    with pytest.raises(VirtioError, match="63 was used but not available"):
        driver.serve(queue, [Buffer(driver.memory.take(16), 16, writable=True)])
    driver.transport.reset()
    assert_lives(machine)


def test_length_beyond_the_buffer_reaches_the_driver(lab: Lab) -> None:
    _, machine, driver = running(lab, "vhost-user-rng", [WrongUsed(excess=1)])
    queue = driver.queue(0)
    driver.start()
    used = driver.serve(queue, [Buffer(driver.memory.take(16), 16, writable=True)])
    assert used.length == 17
    driver.transport.reset()
    assert_lives(machine)


@pytest.mark.parametrize("kind", KINDS)
def test_chain_that_is_used_twice_is_survived(lab: Lab, kind: str) -> None:
    """More chains are used than were available when QEMU takes over the ring again."""
    _, machine, driver = running(lab, kind, [WrongUsed(times=2)])
    queue = driver.queue(0)
    driver.start()
    driver.serve(queue, [Buffer(driver.memory.take(16), 16, writable=True)])
    with pytest.raises(VirtioError, match="was used but not available"):
        queue.wait_used(SAID_S)
    driver.transport.reset()
    assert_lives(machine)


# the back-end channel


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (99, b""),
        (BackendRequest.IOTLB_MSG, b""),
        (BackendRequest.IOTLB_MSG, b"\xff" * 32),
        (BackendRequest.VRING_HOST_NOTIFIER_MSG, b"\xff" * 24),
        (BackendRequest.VRING_CALL, b"\xff" * 8),
        (BackendRequest.SHARED_OBJECT_REMOVE, b"\xff" * 16),
        (BackendRequest.SHARED_OBJECT_LOOKUP, b"\xff" * 16),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_on_the_back_end_channel_is_refused(
    lab: Lab, kind: str, request_: int, payload: bytes
) -> None:
    """The answer reports the failure; the device goes on."""
    backend, machine, driver = running(lab, kind)
    queue = driver.queue(0)
    driver.start()
    answer = backend.front_end.ask(request_, payload)
    assert answer not in (None, 0)
    assert_served(driver, queue)
    assert_lives(machine)


def test_message_too_long_ends_the_back_end_channel_alone(lab: Lab) -> None:
    backend, machine, driver = running(lab, "vhost-user-blk")
    queue = driver.queue(0)
    driver.start()
    with pytest.raises(NoAnswer, match="closed"):
        backend.front_end.ask(BackendRequest.CONFIG_CHANGE_MSG, bytes(4000))
    assert_served(driver, queue)
    assert_lives(machine)
