"""Moves that send requests of the device's own type, whole, damaged, and in odd pieces."""

import struct
from random import Random

from qap.machine.guest_memory import PAGE
from qap.measure.hostile.driver import HostileDriver
from qap.measure.hostile.grammar import move
from qap.measure.hostile.request import Request
from qap.measure.hostile.requests import request
from qap.measure.hostile.rings import WRITE, Raw, RawRing


def _ring(driver: HostileDriver, wanted: Request) -> RawRing | None:
    ring = driver.rings.get(wanted.queue)
    # What is small to another queue of a balloon is a page of firmware to its first one.
    elsewhere = None if driver.target.device == "virtio-balloon" else driver.rings.get(0)
    return ring or elsewhere


def _chain(driver: HostileDriver, out: list[bytes], room: list[int]) -> list[Raw]:
    chain = []
    for data in out:
        address = driver.arena.take(len(data))
        driver.arena.write(address, data)
        chain.append(Raw(address, len(data)))
    return [*chain, *(Raw(driver.arena.take(size), size, WRITE) for size in room)]


def _send(driver: HostileDriver, wanted: Request, out: list[bytes], room: list[int]) -> None:
    ring = _ring(driver, wanted)
    if ring is None or (not out and not room):
        return
    driver.say(f"queue {ring.index}: request {b' '.join(out)[:96].hex()}, room {room}")
    driver.wire.flush()
    ring.post(ring.chained(_chain(driver, out, room)))
    driver.notify(ring.index)


@move(14)
def request_of_its_type(driver: HostileDriver, random: Random) -> None:
    """Requests that the device knows, with values at their edges."""
    for _ in range(random.randint(1, 3)):
        wanted = request(driver.target.device, random)
        _send(driver, wanted, list(wanted.out), list(wanted.room))


@move(6)
def damaged_request(driver: HostileDriver, random: Random) -> None:
    """A request with bits flipped, cut short, split otherwise, or with other room."""
    wanted = request(driver.target.device, random)
    whole = bytearray(b"".join(wanted.out))
    for _ in range(random.randrange(4)):
        if whole:
            whole[random.randrange(len(whole))] ^= 1 << random.randrange(8)
    if whole and random.random() < 0.4:
        del whole[random.randrange(len(whole)) :]
    pieces, at = [], 0
    while at < len(whole):
        size = random.choice((1, 2, 7, 16, len(whole)))
        pieces.append(bytes(whole[at : at + size]))
        at += size
    room = [random.choice((size, size, 1, max(1, size - 1), size + 1)) for size in wanted.room]
    if random.random() < 0.2:
        room = room[:-1]
    _send(driver, wanted, pieces[:64], room)


@move(3)
def burst(driver: HostileDriver, random: Random) -> None:
    """Many requests before one notification."""
    fill(driver, random, random.randint(4, 40))


def fill(driver: HostileDriver, random: Random, count: int = 8) -> None:
    """Put requests in flight, and something in each queue, and notify."""
    driver.wire.flush()
    driver.say(f"{count} requests, and buffers in queues {sorted(driver.rings)}")
    for _ in range(count):
        wanted = request(driver.target.device, random)
        ring = _ring(driver, wanted)
        if ring and (wanted.out or wanted.room):
            ring.post(ring.chained(_chain(driver, list(wanted.out), list(wanted.room))))
    for ring in driver.rings.values():
        if random.random() < 0.3:
            ring.post(ring.chained(driver.buffers(random)))
    for ring in driver.rings.values():
        driver.wire.notify(ring.index)
    driver.wire.flush()


@move(4, "virtio-balloon")
def own_pages(driver: HostileDriver, random: Random) -> None:
    """Pages of its own into the balloon and out of it, some of them twice."""
    ring = driver.rings.get(random.choice((0, 1)))
    if ring:
        pages = [driver.arena.take(PAGE, PAGE) for _ in range(random.randint(1, 8))]
        for page in pages:
            driver.arena.give(ring.index, page, PAGE)
        numbers = struct.pack(f"{ring.order}{len(pages)}I", *(page // PAGE for page in pages))
        _send(driver, Request(ring.index), [numbers * random.choice((1, 2))], [])
