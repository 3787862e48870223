"""Moves that misuse registers: status games, queues while live, features late, configuration."""

from random import Random

from qap.machine.guest_memory import MIB, PAGE
from qap.measure.hostile.driver import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    MOST_QUEUES,
    HostileDriver,
)
from qap.measure.hostile.grammar import move
from qap.measure.hostile.moves_requests import fill
from qap.oracle.features import FeatureBit

ALL_OK = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
NEEDS_RESET, FAILED = 64, 128
SIZES = (0, 1, 2, 3, 4, 5, 8, 16, 100, 127, 128, 256, 1024, 1025, 32768, 65535)
QUEUES = (*range(10), 63, 64, 1023, 1024, 1025, 0x7FFF, 0xFFFF)


def _queue(driver: HostileDriver, random: Random) -> int:
    """Mostly a queue that is set up."""
    if driver.rings and random.random() < 0.8:
        return random.choice(sorted(driver.rings))
    return int(random.choice(QUEUES))


@move(6)
def begin(driver: HostileDriver, random: Random) -> None:
    """A good start: negotiate, set up queues, DRIVER_OK."""
    driver.negotiate(random)
    for queue in range(min(len(driver.queues), MOST_QUEUES)):
        size = random.choice((None, None, None, 2, 4, 8, 64))
        most = driver.queues[queue]
        driver.set_up(queue, min(size, most) if size else None)
    driver.start()
    driver.wire.flush()


@move(3)
def set_up_again(driver: HostileDriver, random: Random) -> None:
    """Set up a queue, perhaps of a size that it can't have, at any time."""
    driver.set_up(_queue(driver, random), random.choice((None, *SIZES[1:8])))


@move(3)
def size_while_live(driver: HostileDriver, random: Random) -> None:
    """Another size for a queue."""
    queue, size = _queue(driver, random), random.choice(SIZES)
    ring = driver.rings.get(queue)
    if ring and size > ring.room:
        # The device may use as many entries as it was told, and they are not all there.
        driver.wire.odd = True
    driver.wire.size(queue, size)
    if random.random() < 0.5:
        driver.wire.ready(queue, 1)
    driver.notify(queue)


@move(3)
def addresses_while_live(driver: HostileDriver, random: Random) -> None:
    """Another place for a queue: elsewhere in RAM, unaligned, or strange."""
    queue = _queue(driver, random)
    ring = driver.rings.get(queue)
    if not ring:
        return
    where = [driver.arena.take(4096), *(driver.strange(random)[0] for _ in range(3))]
    names = random.sample(("desc", "driver", "device"), random.randint(1, 3))
    moved = {name: random.choice(where) + random.choice((0, 0, 1, 8)) for name in names}
    # What wraps to the start of RAM is firmware's, or the code of a CPU that sends commands.
    moved = {name: at if at % (1 << 64) >= MIB else 1 << 40 for name, at in moved.items()}
    if random.random() < 0.2:
        moved["desc"] = 0
    for address in moved.values():
        # A legacy device knows it in pages.
        driver.arena.give(queue, address % (1 << 64) & ~(PAGE - 1), 64 << 10)
    driver.wire.place(queue, ring.place._replace(**{k: v % (1 << 64) for k, v in moved.items()}))
    if random.random() < 0.7:
        driver.wire.ready(queue, 1)
    driver.notify(queue)


@move(3)
def toggle_ready(driver: HostileDriver, random: Random) -> None:
    """Enable, disable, or something else, of a queue."""
    queue = _queue(driver, random)
    for value in random.choices((0, 1, 2, 0xFFFF), k=random.randint(1, 3)):
        driver.wire.ready(queue, value)
    driver.notify(queue)


@move(4)
def queue_reset(driver: HostileDriver, random: Random) -> None:
    """RING_RESET, with what is in flight; perhaps the queue is set up again."""
    if random.random() < 0.7:
        fill(driver, random)
    queue = _queue(driver, random)
    if driver.wire.reset_queue(queue) and driver.accepted >> FeatureBit.RING_RESET & 1:
        driver.arena.release(queue)
        driver.rings.pop(queue, None)
    if random.random() < 0.6:
        driver.set_up(queue)
    driver.notify(queue)


@move(3)
def queue_that_is_not_there(driver: HostileDriver, random: Random) -> None:
    """Select, size, enable and notify a queue that no device has."""
    queue = random.choice(QUEUES[8:])
    driver.wire.size(queue, random.choice(SIZES))
    driver.wire.ready(queue, 1)
    driver.notify(queue)


@move(3)
def features_late(driver: HostileDriver, random: Random) -> None:
    """Features after the queues, after FEATURES_OK, or that were never offered."""
    word = random.choice((0, 0, 1, 1, 1, 2, 3, 4, 0xFFFF_FFFF))
    toggled = 1 << random.choice((0, 1, 2, 3, 28, 29))
    value = random.choice(
        (
            0,
            0xFFFF_FFFF,
            random.getrandbits(32),
            driver.accepted >> 32 * min(word, 2) & 0xFFFF_FFFF ^ toggled,
        )
    )
    driver.wire.features(word, value)
    driver.wire.flush()


@move(3)
def other_ring_format(driver: HostileDriver, random: Random) -> None:
    """RING_PACKED toggled after the queues were set up, and requests in the other format."""
    if driver.target.legacy:
        return
    toggled = driver.accepted ^ 1 << FeatureBit.RING_PACKED
    if random.random() < 0.5:
        toggled &= ~(1 << FeatureBit.EVENT_IDX)
    driver.wire.status(ACKNOWLEDGE | DRIVER if random.random() < 0.8 else ALL_OK)
    driver.wire.features(0, toggled & 0xFFFF_FFFF)
    driver.wire.features(1, toggled >> 32)
    if random.random() < 0.8:
        driver.wire.status(ALL_OK & ~DRIVER_OK)
    driver.wire.status(ALL_OK)
    driver.accepted = toggled
    for ring in driver.rings.values():
        ring.packed = driver.is_packed
    fill(driver, random)


@move(4)
def status_game(driver: HostileDriver, random: Random) -> None:
    """Statuses in any order: DRIVER_OK alone, bits cleared, NEEDS_RESET and FAILED written."""
    games = (
        DRIVER_OK,
        ALL_OK & ~FEATURES_OK,
        ALL_OK & ~DRIVER_OK,
        ALL_OK & ~DRIVER,
        ALL_OK | NEEDS_RESET,
        ALL_OK | FAILED,
        ALL_OK,
        NEEDS_RESET,
        FEATURES_OK,
        0xFF,
        random.getrandbits(8),
    )
    for status in random.choices(games, k=random.randint(1, 4)):
        driver.wire.status(status)
    driver.notify(_queue(driver, random))


@move(2)
def reset_in_flight(driver: HostileDriver, random: Random) -> None:
    """Reset, with what is in flight."""
    if random.random() < 0.7:
        fill(driver, random)
    driver.reset()
    if random.random() < 0.7:
        begin(driver, random)


@move(2)
def reset_unseen(driver: HostileDriver, random: Random) -> None:
    """Reset without waiting for it, and go on at once."""
    driver.wire.status(0)
    if random.random() < 0.5:
        driver.wire.status(ALL_OK)
    driver.notify(_queue(driver, random))


@move(3)
def write_config(driver: HostileDriver, random: Random) -> None:
    """Write device configuration at any offset, in any width."""
    for _ in range(random.randint(1, 4)):
        offset = random.choice((random.randrange(64), random.randrange(1024)))
        width = random.choice((1, 2, 4))
        data = random.choice(
            (random.randbytes(width), bytes(width), b"\xff" * width, b"\1" + bytes(width - 1))
        )
        driver.wire.config_write(offset, data)
    driver.wire.flush()


@move(2)
def read_config(driver: HostileDriver, random: Random) -> None:
    """Read device configuration at any offset, in any width."""
    for _ in range(random.randint(1, 4)):
        offset = random.choice((random.randrange(64), random.randrange(4096)))
        driver.wire.config_read(offset, random.choice((1, 2, 4)))
    driver.wire.flush()


@move(5)
def stray_register(driver: HostileDriver, random: Random) -> None:
    """Any register, any value, any width."""
    for _ in range(random.randint(1, 6)):
        driver.wire.stray(random)
    driver.wire.flush()


@move(2)
def notify_anything(driver: HostileDriver, random: Random) -> None:
    """Notify queues, there or not, many times."""
    for _ in range(random.randint(1, 8)):
        driver.wire.notify(random.choice(QUEUES))
    driver.wire.flush()


@move(2)
def kick_before_start(driver: HostileDriver, random: Random) -> None:
    """Set up and notify without DRIVER_OK."""
    driver.negotiate(random)
    driver.set_up(0)
    driver.set_up(1)
    driver.notify(0)
    driver.notify(1)
