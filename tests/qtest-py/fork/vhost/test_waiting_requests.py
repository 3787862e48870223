"""Requests that a back-end finds in a ring when its device is started, before any notification."""

from collections.abc import Sequence

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.verify.kit.lab import Lab
from qap.vhost_user.message_types import FrontendRequest as R
from qap.vhost_user.records import Received
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer

# These were right before: it unmasks its queues before it starts.
AT_EASE = ("vhost-user-blk",)
KINDS = list(vhost_user_types())
QUEUE_INTERRUPT = 1 << 0  # virtio 1.3, 4.1.4.5
QUEUE_INDEX = 0xFF  # in the word of SET_VRING_CALL
ANSWER_S = 10.0
CHARDEV = "vhost"


def late_calls(received: Sequence[Received]) -> list[int]:
    """Queues that get their last call after they may run (vhost-user.rst, "Ring states")."""
    last: dict[tuple[int, int], int] = {}
    for at, message in enumerate(received):
        if message.request in (R.SET_VRING_CALL, R.SET_VRING_KICK, R.SET_VRING_ENABLE):
            last[message.request, message.words[0] & QUEUE_INDEX] = at
    queues = sorted({queue for _, queue in last})
    return [
        queue
        for queue in queues
        if last[R.SET_VRING_CALL, queue]
        > max(last.get((R.SET_VRING_KICK, queue), -1), last.get((R.SET_VRING_ENABLE, queue), -1))
        > -1
    ]


def assert_answered(lab: Lab, kind: str) -> None:
    """Fill a ring before DRIVER_OK; the request is used, and the driver interrupted.

    QEMU gives the back-end a notification when it starts. So once a ring has its kick and is
    enabled, its call has to be the one that interrupts: a back-end may serve it before it reads
    another message.
    """
    behind = lab.backend(kind, access_platform=True)
    lab.backends.clear()
    row = vhost_user_types()[kind]
    device, words = row.pci(CHARDEV)
    chardev = ["-chardev", f"socket,id={CHARDEV},path={behind.path}", *words]
    machine = lab.machine({**device, "id": "dut", "bus": "port0"}, extra=chardev, qtest=True)
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    driver = Driver(transport, GuestMemory(machine.qtest))
    driver.negotiate()
    probe = row.probe
    assert probe is not None
    for other in probe.others:
        driver.queue(other)
    queue = driver.queue(probe.queue)
    chain = [Buffer(driver.memory.put(probe.data), len(probe.data))] if probe.data else []
    if probe.room:
        chain.append(Buffer(driver.memory.put(bytes(probe.room)), probe.room, writable=True))
    queue.add(chain)
    driver.start()
    queue.wait_used(ANSWER_S)
    behind.settle()
    assert late_calls(behind.received) == []
    poll_until(
        lambda: transport.isr_status() & QUEUE_INTERRUPT or None,
        ANSWER_S,
        lambda: "an interrupt for a request that is used",
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in AT_EASE])
def test_request_that_waits_for_the_start_is_answered(lab: Lab, kind: str) -> None:
    assert_answered(lab, kind)


@pytest.mark.parametrize("kind", AT_EASE)
def test_request_of_others_is_answered(lab: Lab, kind: str) -> None:
    assert_answered(lab, kind)
