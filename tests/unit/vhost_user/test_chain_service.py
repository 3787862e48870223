"""How qap.vhost_user.backend serves chains, well-formed and malformed."""

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.vhost_user.chain_service import LATER, YIELD, Answer, At, Ends
from qap.vhost_user.misbehave import WrongUsed

from .front_end import Frontend, R
from .ring_driver import (
    DATA,
    DESC,
    DRIVER,
    ENTRIES,
    GUEST_BASE,
    NEXT,
    SIZE,
    WRITE,
    Bench,
    Buffer,
    Split,
)

WRITABLE = [Buffer(DATA, 64, WRITE)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as owned:
        yield Bench(tmp_path, owned)


def test_service_decides_what_is_written(bench: Bench) -> None:
    bench.backend.service = lambda queue, readable, room: readable[::-1][:room]
    driver = bench.driver(Split)
    bench.memory.put(DATA, b"abc")
    driver.add([Buffer(DATA, 3), Buffer(DATA + 8, 2, WRITE), Buffer(DATA + 16, 8, WRITE)])
    driver.notify()
    assert driver.used(0) == (0, 3)
    assert bench.memory.get(DATA + 8, 2) + bench.memory.get(DATA + 16, 1) == b"cba"


def test_service_may_write_both_ends_alone(bench: Bench) -> None:
    bench.backend.service = lambda queue, readable, room: Ends(b"abc", b"yz")
    driver = bench.driver(Split)
    bench.memory.put(DATA, b"." * 16)
    driver.add([Buffer(DATA, 2, WRITE), Buffer(DATA + 4, 4, WRITE), Buffer(DATA + 10, 1, WRITE)])
    driver.notify()
    assert driver.used(0) == (0, 7)
    assert bench.memory.get(DATA, 16) == b"ab..c..y..z....."


def test_service_may_keep_a_chain(bench: Bench) -> None:
    """The next chain is served nevertheless."""
    kept = iter([None, b"x"])
    bench.backend.service = lambda queue, readable, room: next(kept)
    driver = bench.driver(Split)
    driver.add(WRITABLE, at=0)
    driver.add(WRITABLE, at=1)
    driver.notify()
    assert driver.used_idx == 1
    assert driver.used(0) == (1, 1)
    assert [chain.written for chain in bench.backend.served] == [None, 1]


@pytest.mark.parametrize(
    "leave", [lambda: At(time.monotonic() + 0.01), lambda: YIELD], ids=["at its time", "by turns"]
)
def test_chain_that_is_left_is_served(bench: Bench, leave: Callable[[], Answer]) -> None:
    """Without a kick or a message."""
    answers: Iterator[Answer] = iter([leave(), b"x"])
    bench.backend.service = lambda queue, readable, room: next(answers)
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    os.eventfd_write(driver.kick, 1)
    driver.wait_call()
    assert driver.used(0) == (0, 1)


def test_chain_that_is_left_is_served_when_the_back_end_is_woken(bench: Bench) -> None:
    arrived: list[bytes] = []
    bench.backend.service = lambda queue, readable, room: arrived.pop() if arrived else LATER
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 0
    arrived.append(b"xy")
    bench.backend.wake()
    assert driver.used(0) == (0, 2)


def test_service_that_fails_ends_the_connection_with_its_error(bench: Bench) -> None:
    def fails(queue: int, readable: bytes, room: int) -> bytes:
        raise ValueError("a device model's own fault")

    bench.backend.service = fails
    bench.backend.expect(ValueError)
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    os.eventfd_write(driver.kick, 1)
    bench.front.expect_end()
    assert isinstance(bench.backend.error, ValueError)
    again = Frontend(bench.backend.path)
    assert again.ask_u64(R.GET_QUEUE_NUM) == 8
    again.close()


def test_service_that_writes_too_much_is_told_so(bench: Bench) -> None:
    bench.backend.service = lambda queue, readable, room: bytes(room + 1)
    bench.backend.expect(QapError)
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    os.eventfd_write(driver.kick, 1)
    bench.front.expect_end()
    with pytest.raises(QapError, match="65 bytes into a room of 64"):
        raise bench.backend.error or AssertionError("no error")


def test_wrong_used_entries_on_request(bench: Bench) -> None:
    bench.backend.misbehaviour = [WrongUsed(id=5, excess=1, times=2)]
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 2
    assert [driver.used(0), driver.used(1)] == [(5, 65), (5, 65)]
    bench.backend.misbehaviour = []
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used(2) == (0, 64)


# errors of the driver


def _loop(driver: Split) -> None:
    raw = struct.pack("<QIHH", GUEST_BASE + DATA, 4, NEXT, 0)
    driver.memory.put(DESC, raw)
    driver.publish(0)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda driver: driver.publish(ENTRIES), "descriptor 8 of a table of 8"),
        (_loop, "longer than the ring's 8 descriptors"),
        (lambda driver: driver.add([Buffer(DATA, 4)], indirect=True), "INDIRECT_DESC was not"),
        (lambda driver: driver.add([Buffer(SIZE, 4)]), "0x40010000 is in no memory region"),
        (lambda driver: driver.add([Buffer(SIZE - 4, 8)]), "0x40010000 is in no memory region"),
        (
            lambda driver: driver.add([Buffer(DATA, 4, WRITE), Buffer(DATA, 4)]),
            "a readable buffer after a writable one",
        ),
        (
            lambda driver: driver.memory.put(DRIVER + 2, struct.pack("<H", ENTRIES + 1)),
            "9 chains are available in a ring of 8",
        ),
    ],
)
def test_malformed_ring_is_an_error_of_that_ring(
    bench: Bench, wrong: Callable[[Split], None], reason: str
) -> None:
    driver = bench.driver(Split)
    wrong(driver)
    driver.notify()
    assert driver.used_idx == 0
    (error,) = bench.backend.ring_errors
    assert error.queue == 0
    with pytest.raises(QapError, match=reason):
        raise error
    assert driver.errors() == 1
    assert bench.backend.error is None


def test_ring_size_that_is_no_power_of_two_is_refused(bench: Bench) -> None:
    driver = bench.driver(Split)
    bench.front.tell(R.SET_VRING_NUM, struct.pack("=II", 0, 6))
    driver.notify()
    assert "a split ring of 6 entries" in str(bench.backend.ring_errors[0])
