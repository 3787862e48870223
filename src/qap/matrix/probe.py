"""A driver of the device under test, and the buffers that show whether it is served."""

import time
from contextlib import suppress
from dataclasses import dataclass, field

from qap.machine.guest_memory import GuestMemory
from qap.matrix.setup import Setup
from qap.matrix.testbed import Testbed
from qap.oracle.features import FeatureBit
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.protocol import Disconnected
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transport import Transport

# Round trips through QEMU's main loop after which a buffer counts as unserved, and the factor on
# them in a run that confirms it.
PATIENCE = 16
PROGRAM_PATIENCE = 48
CONFIRMED_BY = 20
# The time that another program gets in such a run: it may have to wait for a processor.
PROGRAM_S = 3.0
FILLER = b"\xa5"


@dataclass
class ProbeDriver:
    """A driver that has not negotiated yet, on a testbed where the config is plugged.

    Args:
        confirms: a buffer counted as unserved before, so this one gets more time.

    Attributes:
        offered: the feature word that it was offered.
        memory: for its rings and buffers; an IOMMU maps it where the driver will accept
            ACCESS_PLATFORM and one is programmed.
    """

    testbed: Testbed
    config: Setup
    transport: Transport
    behaviour: Behaviour
    confirms: bool = False
    offered: int = field(init=False)
    memory: GuestMemory = field(init=False)
    driver: Driver = field(init=False)
    _queue: Queue | None = field(init=False, default=None)
    _unused: set[int] = field(init=False, default_factory=set)
    _answer: tuple[int, int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.offered = self.transport.device_features
        accepts = bool((self.offered & self.behaviour.supports) >> FeatureBit.ACCESS_PLATFORM & 1)
        mapped = self.testbed.mapped
        self.memory = mapped if mapped and accepts else self.testbed.memory
        self.memory.give_back()
        self.driver = Driver(self.transport, self.memory, self.behaviour)

    @property
    def has_queue(self) -> bool:
        """Whether it got as far as setting up a queue."""
        return self._queue is not None

    def set_up(self, *, others: bool = True) -> None:
        """Set up the queue that the probe goes to, and the others that it needs."""
        probe = self.config.device_row.probe
        assert probe is not None
        if others:
            for other in probe.others:
                self.driver.queue(other)
        self._queue = self.driver.queue(probe.queue)

    def offer(self) -> None:
        """Make the device's probe (configs/devices.toml) available, without a notification."""
        probe = self.config.device_row.probe
        assert probe is not None
        assert self._queue is not None
        chain = []
        if probe.data:
            chain.append(Buffer(self.memory.put(probe.data), len(probe.data)))
        if probe.room:
            address = self.memory.put(FILLER * probe.room)
            self._answer = address, probe.room
            chain.append(Buffer(address, probe.room, writable=True))
        self._unused.add(self._queue.add(chain))

    def notify(self) -> None:
        """Tell the device that there is something in the probe's queue."""
        assert self._queue is not None
        self.transport.notify(self._queue.index)

    def is_served(self) -> bool:
        """Whether all that was offered is used, and the latest answer is written.

        Each look is a turn of QEMU's main loop. QEMU also uses a buffer that its IOMMU
        did not let it write. A back-end in Python is waited for, unless it is one that has
        just lost its connection.
        """
        assert self._queue is not None
        looks, until = PATIENCE, 0.0
        if self.testbed.backend:
            later = self.config.later_row
            gone = (NoAnswer, Disconnected) if later.returns or later.leaves else ()
            with suppress(*gone):
                self.testbed.backend.settle()
        elif self.config.device_row.vhost_user or self.config.in_lab:
            looks = PROGRAM_PATIENCE
            if self.confirms:
                until = time.monotonic() + PROGRAM_S
        if self.confirms:
            looks *= CONFIRMED_BY
        while looks > 0 or time.monotonic() < until:
            looks -= 1
            used = self._queue.take_used()
            if used:
                self._unused.discard(used.id)
            if not self._unused:
                return self._is_written()
        return False

    def _is_written(self) -> bool:
        if self._answer is None:
            return True
        address, room = self._answer
        return self.memory.read(address, room) != FILLER * room

    def is_served_again(self) -> bool:
        """Offer one more, notify, and see whether everything is used now."""
        self.offer()
        self.notify()
        return self.is_served()
