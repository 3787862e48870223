"""A driver that knows the specification and keeps to it only where it likes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from qap.measure.hostile.arena import Arena
from qap.measure.hostile.rings import WRITE, Raw, RawRing
from qap.measure.hostile.target import Target
from qap.measure.hostile.wire import Wire
from qap.oracle.features import FeatureBit, mask
from qap.virtio.queue import ByteOrder
from qap.virtio.transport import Transport

NEEDED = mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM])
MOST_QUEUES = 8
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
# What a buffer's address may be instead: firmware, registers, beyond RAM, the end of RAM, the
# end of the address space.
STRANGE = (
    0xE000_0000,
    0xFEB0_0000,
    0xFEC0_0000,
    0xFED9_0000,
    0xFEE0_0000,
    0xFFFF_F000,
    1 << 32,
    1 << 40,
    (1 << 52) - 1,
    1 << 63,
    (1 << 64) - 1,
    (1 << 64) - 16,
    (1 << 64) - 4096,
)
RAM_END = 128 << 20
LENGTHS = (0, 1, 2, 15, 16, 17, 4095, 4096, 65535, 65536, 1 << 20, 1 << 31, (1 << 32) - 1)


@dataclass
class HostileDriver:
    """One driver on one device, with what its moves share.

    Args:
        queues: entries of each queue of the device, from 0 on.
        offered: the device's features.
        outside: what is done from outside of the guest, by name (bed.py).

    Attributes:
        rings: those that are set up, by queue.
        trace: what was done, a line each.
        spoilt: its rings were bad, so that the device may have stopped to serve them.
    """

    target: Target
    transport: Transport
    wire: Wire
    arena: Arena
    queues: list[int]
    offered: int
    outside: Callable[[str], bool]
    trace: list[str] = field(default_factory=list)
    rings: dict[int, RawRing] = field(default_factory=dict)
    accepted: int = 0
    spoilt: bool = False

    def say(self, text: str) -> None:
        """Note what is done."""
        self.trace.append(text)

    @property
    def order(self) -> ByteOrder:
        """The byte order of what the driver writes."""
        if self.accepted >> FeatureBit.VERSION_1 & 1:
            return "<"
        return ">" if self.target.transport.startswith("ccw") else "<"

    @property
    def is_packed(self) -> bool:
        """Whether rings are packed."""
        return bool(self.accepted >> FeatureBit.RING_PACKED & 1)

    def reset(self) -> None:
        """Reset the device; what it was given is taken back."""
        self.wire.flush()
        self.say("reset")
        self.transport.reset()
        self.rings.clear()
        self.wire.forget()
        self.arena.release()
        self.spoilt = False

    def negotiate(self, random: Random, *, without: int = 0) -> None:
        """Reset and negotiate, as far as FEATURES_OK; mostly all features, or some of them."""
        self.reset()
        accepted = self.offered & ~without
        if not self.target.packed:
            accepted &= ~mask([FeatureBit.RING_PACKED])
        if random.random() < 0.4:
            accepted &= random.getrandbits(64) | NEEDED | mask([FeatureBit.RING_PACKED])
        if self.target.legacy:
            accepted &= 0xFFFF_FFFF
        self.accept(accepted)

    def accept(self, accepted: int) -> None:
        """Write features and statuses up to FEATURES_OK."""
        self.accepted = accepted
        self.wire.status(ACKNOWLEDGE)
        self.wire.status(ACKNOWLEDGE | DRIVER)
        self.wire.features(0, accepted & 0xFFFF_FFFF)
        if not self.target.legacy:
            self.wire.features(1, accepted >> 32)
            self.wire.status(ACKNOWLEDGE | DRIVER | FEATURES_OK)

    def start(self) -> None:
        """Write DRIVER_OK."""
        ok = 0 if self.target.legacy else FEATURES_OK
        self.wire.status(ACKNOWLEDGE | DRIVER | ok | DRIVER_OK)

    def set_up(self, queue: int, size: int | None = None) -> RawRing | None:
        """Set up a queue of the device; None if there is none."""
        if queue >= len(self.queues):
            return None
        most = self.queues[queue]
        ring = RawRing.make(
            self.arena,
            queue,
            most if size is None or self.target.legacy else size,
            most=most,
            packed=self.is_packed,
            order=self.order,
        )
        self.rings[queue] = ring
        self.wire.place(queue, ring.place)
        self.wire.ready(queue, 1)
        return ring

    def ring(self, random: Random) -> RawRing | None:
        """One of the rings that are set up."""
        if not self.rings:
            return None
        return self.rings[random.choice(sorted(self.rings))]

    def notify(self, queue: int) -> None:
        """Send what was written, and notify."""
        self.wire.notify(queue)
        self.wire.flush()

    def buffer(self, random: Random, data: bytes = b"", *, writable: bool = False) -> Raw:
        """A buffer of its own, with data or of any small size."""
        size = len(data) or random.choice((1, 8, 16, 64, 512, 513, 1526, 4096))
        address = self.arena.take(size)
        if data:
            self.arena.write(address, data)
        return Raw(address, size, WRITE if writable else 0)

    def buffers(self, random: Random, most: int = 6) -> list[Raw]:
        """Some buffers, those for reading first."""
        readable = random.randrange(most // 2 + 1)
        writable = random.randrange(0 if readable else 1, most // 2 + 1)
        return [
            *(
                self.buffer(random, random.randbytes(random.choice((4, 16, 24, 64))))
                for _ in range(readable)
            ),
            *(self.buffer(random, writable=True) for _ in range(writable)),
        ]

    def strange(self, random: Random) -> tuple[int, int]:
        """An address and a length that no driver should use."""
        address = random.choice(
            (*STRANGE, RAM_END - 1, RAM_END - 4096, RAM_END, random.getrandbits(64))
        )
        length = random.choice(LENGTHS)
        if self.target.transport.startswith("ccw"):
            # What goes over the end begins again at 0, where the CPU's own code is.
            length = min(length, (1 << 64) - address)
        return address, length
