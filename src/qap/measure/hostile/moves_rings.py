"""Moves that damage rings: loops, bad indexes, indirect tables, addresses, lengths, flags."""

from dataclasses import replace
from random import Random

from qap.measure.hostile.driver import LENGTHS, HostileDriver
from qap.measure.hostile.grammar import move
from qap.measure.hostile.rings import (
    AVAIL,
    DESC_SIZE,
    INDIRECT,
    NEXT,
    USED,
    WRITE,
    Raw,
    RawRing,
)

BAD_FLAGS = (NEXT, INDIRECT, NEXT | INDIRECT, 8, 0x10, AVAIL, USED, AVAIL | USED, 0xFFFF)


def _post(driver: HostileDriver, ring: RawRing, chain: list[Raw], heads: int = 1) -> None:
    driver.say(
        f"queue {ring.index}: available at {ring.slot(0)}: "
        + ", ".join(
            f"({raw.address:#x}, {raw.length:#x}, {raw.flags:#x}, {raw.last})" for raw in chain[:8]
        )
        + (f" and {len(chain) - 8} more" if len(chain) > 8 else "")
    )
    # What is queued was written before.
    driver.wire.flush()
    driver.spoilt = True
    ring.post(chain, heads)
    driver.notify(ring.index)


@move(6)
def some_buffers(driver: HostileDriver, random: Random) -> None:
    """A well-formed chain of random content."""
    if ring := driver.ring(random):
        _post(driver, ring, ring.chained(driver.buffers(random)))
        driver.spoilt = False


@move(4)
def descriptor_loop(driver: HostileDriver, random: Random) -> None:
    """A chain whose last descriptor leads back into it."""
    if ring := driver.ring(random):
        chain = ring.chained(driver.buffers(random))
        back = random.randrange(len(chain))
        chain[-1] = replace(chain[-1], flags=chain[-1].flags | NEXT, last=ring.slot(back))
        _post(driver, ring, chain)


@move(3)
def next_everywhere(driver: HostileDriver, random: Random) -> None:
    """NEXT in every descriptor of the ring."""
    if ring := driver.ring(random):
        buffer = driver.buffer(random, writable=random.random() < 0.5)
        count = ring.size if random.random() < 0.8 else max(1, ring.size - 1)
        chain = [
            replace(buffer, flags=buffer.flags | NEXT, last=ring.slot(number + 1))
            for number in range(count)
        ]
        _post(driver, ring, chain)


@move(4)
def bad_next(driver: HostileDriver, random: Random) -> None:
    """A next, or a buffer id, that is no descriptor of the ring."""
    if ring := driver.ring(random):
        chain = ring.chained(driver.buffers(random))
        at = random.randrange(len(chain))
        last = random.choice((ring.size, ring.size + 1, 0x7FFF, 0x8000, 0xFFFF))
        flags = chain[at].flags | random.choice((0, NEXT))
        chain[at] = replace(chain[at], last=last, flags=flags)
        _post(driver, ring, chain)


@move(3)
def bad_head(driver: HostileDriver, random: Random) -> None:
    """A head that is no descriptor of the ring, or the same one twice."""
    if ring := driver.ring(random):
        driver.wire.flush()
        head = random.choice((ring.size, ring.size + 1, 0x8000, 0xFFFF, ring.slot(-1)))
        driver.say(f"queue {ring.index}: head {head}")
        ring.offer(head)
        driver.notify(ring.index)


@move(4)
def index_jump(driver: HostileDriver, random: Random) -> None:
    """The driver's index, or a packed ring's position, jumps."""
    if ring := driver.ring(random):
        jump = random.choice((2, ring.size - 1, ring.size, ring.size + 1, 0x7FFF, 0xFFFF))
        driver.say(f"queue {ring.index}: jumps by {jump}")
        chain = ring.chained(driver.buffers(random))
        if ring.packed:
            ring.position += jump
        _post(driver, ring, chain, jump)


@move(5)
def indirect(driver: HostileDriver, random: Random) -> None:
    """An indirect table: well-formed, nested, looping, of odd, huge or no length, or elsewhere."""
    ring = driver.ring(random)
    if not ring:
        return
    inner = ring.chained(driver.buffers(random))
    inner = [
        replace(raw, last=number + 1 if raw.flags & NEXT else 0) for number, raw in enumerate(inner)
    ]
    how = random.choice(("good", "nested", "loop", "far", "odd", "huge", "empty", "away", "next"))
    if how == "nested":
        inner[-1] = Raw(driver.arena.take(64), 64, INDIRECT)
    elif how == "loop":
        inner[-1] = replace(inner[-1], flags=inner[-1].flags | NEXT, last=0)
    elif how == "far":
        inner[-1] = replace(inner[-1], flags=inner[-1].flags | NEXT, last=random.getrandbits(16))
    table = b"".join(ring.packed_bytes(raw) for raw in inner)
    address, length = driver.arena.take(len(table)), len(table)
    driver.arena.write(address, table)
    if how == "odd":
        length += random.choice((-1, 1, 8, -DESC_SIZE + 1))
    elif how == "huge":
        length = random.choice((1 << 16, 1 << 20, 1 << 31, 0xFFFF_FFF0, 0xFFFF_FFFF))
    elif how == "empty":
        length = 0
    elif how == "away":
        address, length = driver.strange(random)
    driver.say(f"queue {ring.index}: indirect table, {how}: {len(inner)} descriptors")
    flags = INDIRECT | (NEXT if how == "next" else 0) | random.choice((0, 0, WRITE))
    chain = [Raw(address, length, flags, ring.slot(1))]
    if how == "next" or random.random() < 0.2:
        chain = [*ring.chained(driver.buffers(random)), *chain]
        chain[-2] = replace(chain[-2], flags=chain[-2].flags | NEXT, last=ring.slot(len(chain) - 1))
    _post(driver, ring, chain)


@move(3)
def empty_buffers(driver: HostileDriver, random: Random) -> None:
    """Buffers of no length, some of them or all."""
    if ring := driver.ring(random):
        chain = [
            replace(raw, length=0 if random.random() < 0.6 else raw.length)
            for raw in ring.chained(driver.buffers(random))
        ]
        _post(driver, ring, chain)


@move(5)
def strange_addresses(driver: HostileDriver, random: Random) -> None:
    """Buffers outside of RAM, in registers, or beyond the end of the address space."""
    if ring := driver.ring(random):
        chain = ring.chained(driver.buffers(random))
        for number in random.sample(range(len(chain)), random.randint(1, len(chain))):
            address, length = driver.strange(random)
            chain[number] = replace(chain[number], address=address, length=length)
        _post(driver, ring, chain)


@move(3)
def odd_lengths(driver: HostileDriver, random: Random) -> None:
    """Buffers that are longer or shorter than what they hold."""
    if ring := driver.ring(random):
        chain = ring.chained(driver.buffers(random))
        number = random.randrange(len(chain))
        chain[number] = replace(chain[number], length=random.choice(LENGTHS))
        _post(driver, ring, chain)


@move(3)
def mixed_flags(driver: HostileDriver, random: Random) -> None:
    """Readable after writable, unknown flags, or all of them."""
    if ring := driver.ring(random):
        chain = ring.chained(driver.buffers(random))
        for number in range(len(chain)):
            flags = random.choice((WRITE, WRITE, 0, random.choice(BAD_FLAGS)))
            chain[number] = replace(chain[number], flags=chain[number].flags ^ flags)
        _post(driver, ring, chain)


@move(2)
def long_chain(driver: HostileDriver, random: Random) -> None:
    """As many buffers as the ring has descriptors, or more than that."""
    if ring := driver.ring(random):
        count = random.choice((ring.size, ring.size + 1, 2 * ring.size))
        raw = driver.buffer(random, writable=True)
        read = driver.buffer(random, random.randbytes(16))
        share = random.randrange(count + 1)
        _post(driver, ring, ring.chained([read] * share + [raw] * (count - share)))


@move(3)
def scribble(driver: HostileDriver, random: Random) -> None:
    """Random bytes in a ring: descriptors, indexes, events, what the device wrote."""
    if ring := driver.ring(random):
        driver.wire.flush()
        area = random.choice((ring.place.desc, ring.place.driver, ring.place.device))
        at = area + random.choice((0, 2, 4, random.randrange(max(1, 2 * ring.size))))
        data = random.randbytes(random.choice((1, 2, 4, 8, 16, 32)))
        driver.say(f"queue {ring.index}: scribbles {data.hex()} at {at:#x}")
        ring.scribble(at, data)
        driver.notify(ring.index)


@move(2)
def many_at_once(driver: HostileDriver, random: Random) -> None:
    """Many chains before one notification."""
    if ring := driver.ring(random):
        driver.wire.flush()
        driver.say(f"queue {ring.index}: many chains")
        for _ in range(random.randrange(2, 32)):
            ring.post(ring.chained(driver.buffers(random, 4)))
        driver.notify(ring.index)
