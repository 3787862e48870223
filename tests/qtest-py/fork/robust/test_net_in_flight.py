"""Frames that a network card's back-end does not take while a queue is reset."""

from collections.abc import Callable

import pytest

from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.cable import Cable
from qap.verify.kit.lab import Lab
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import Transport

Start = Callable[..., tuple[Machine, Transport]]
LOOKS = 64
# More than a Unix socket holds.
FRAMES = 256


def negotiated(transport: Transport, *extra: int) -> Driver:
    """A driver that accepts RING_RESET where it is offered."""
    supports = MODERN | mask([FeatureBit.RING_RESET, FeatureBit.RING_PACKED, *extra])
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(supports))
    driver.negotiate()
    return driver


class Clogged:
    """A network card with more frames in its ring than its back-end takes."""

    def __init__(self, lab: Lab, start: Start, packed: bool) -> None:
        cable = Cable(lab)
        self.far = cable.far
        self.far.settimeout(5)
        self.machine, self.transport = start(
            "pci modern",
            "virtio-net",
            extra=cable.netdev,
            netdev="net0",
            packed=packed,
        )
        self.driver = negotiated(self.transport)
        self.driver.queue(0)
        self.queue = self.driver.queue(1, FRAMES)
        self.driver.start()
        for number in range(FRAMES):
            frame = bytes(12) + bytes([number % 256]) * 60
            self.queue.add([Buffer(self.driver.memory.put(frame), len(frame))])
        self.transport.notify(1)
        self.sent = 0
        while any(self.queue.take_used() for _ in range(LOOKS)):
            self.sent += 1
        assert 0 < self.sent < FRAMES - 2


@pytest.mark.parametrize("packed", [False, True])
def test_frames_are_dropped_when_their_queue_is_reset(lab: Lab, start: Start, packed: bool) -> None:
    """2.6.1.1: none is sent after the reset; and later ones are."""
    card = Clogged(lab, start, packed)
    card.transport.queue_reset(1)
    assert card.machine.alive
    heard = [card.far.recv(2048)[0] for _ in range(card.sent)]
    assert heard == [number % 256 for number in range(card.sent)]
    queue = card.driver.queue(1, 16)
    frame = card.driver.memory.put(bytes(12) + b"\xee" * 60)
    for _ in range(20):
        card.driver.serve(queue, [Buffer(frame, 72)])
        assert card.far.recv(2048) == b"\xee" * 60


@pytest.mark.parametrize("packed", [False, True])
def test_frames_stay_when_the_other_queue_is_reset(lab: Lab, start: Start, packed: bool) -> None:
    """2.6.1: the driver resets the receive queue; all that is to be sent is sent."""
    card = Clogged(lab, start, packed)
    card.transport.queue_reset(0)
    assert card.machine.alive
    heard = [card.far.recv(2048)[0] for _ in range(FRAMES)]
    assert heard == [number % 256 for number in range(FRAMES)]
