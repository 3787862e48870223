"""Rings that qap.vhost_user.backend serves, driven from shared memory."""

import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.oracle.features import FeatureBit, mask
from qap.vhost_user.chain_service import Served, pattern
from qap.vhost_user.protocol import ProtocolFeature
from qap.vhost_user.ring.ring import RingByteOrder

from .front_end import R, open_fds, u64
from .ring_driver import (
    DATA,
    DESC,
    DEVICE,
    DRIVER,
    ENTRIES,
    GUEST_BASE,
    INDIRECT,
    TABLE,
    USER_BASE,
    WRITE,
    Bench,
    Buffer,
    Packed,
    Split,
)

INDIRECT_DESC, EVENT_IDX = FeatureBit.INDIRECT_DESC, FeatureBit.EVENT_IDX


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as owned:
        yield Bench(tmp_path, owned)


WRITABLE = [Buffer(DATA, 64, WRITE)]


def test_split_ring_is_served(bench: Bench) -> None:
    driver = bench.driver(Split)
    bench.memory.put(DATA, b"what the driver says")
    driver.add([Buffer(DATA, 20), Buffer(DATA + 0x100, 32, WRITE), Buffer(DATA + 0x200, 8, WRITE)])
    driver.notify()
    assert driver.used_idx == 1
    assert driver.used(0) == (0, 40)
    written = bench.memory.get(DATA + 0x100, 32) + bench.memory.get(DATA + 0x200, 8)
    assert written == pattern(40)
    assert bench.backend.served == [Served(0, 0, b"what the driver says", 40, 40)]
    assert driver.calls() == 1


def test_every_access_is_recorded_once(bench: Bench) -> None:
    driver = bench.driver(Split)
    driver.add([Buffer(DATA, 20), Buffer(DATA + 0x100, 32, WRITE)])
    bench.backend.forget()
    driver.notify()
    touched = bench.backend.touched
    assert {access.queue for access in touched} == {0}
    assert {access.space for access in touched if access.what == "buffer"} == {"gpa"}
    assert {access.space for access in touched if access.what != "buffer"} == {"uva"}
    at = [
        (
            access.what,
            access.address - (GUEST_BASE if access.space == "gpa" else USER_BASE),
            access.size,
        )
        for access in touched
        if not access.write
    ]
    # Used idx and available idx at first; entry, two descriptors, buffer; flags; idx again.
    assert at == [
        ("device", DEVICE + 2, 2),
        ("driver", DRIVER + 2, 2),
        ("driver", DRIVER + 4, 2),
        ("desc", DESC, 16),
        ("desc", DESC + 16, 16),
        ("buffer", DATA, 20),
        ("driver", DRIVER, 2),
        ("driver", DRIVER + 2, 2),
    ]
    wrote = [(access.what, access.address, access.size) for access in touched if access.write]
    assert wrote == [
        ("buffer", GUEST_BASE + DATA + 0x100, 32),
        ("device", USER_BASE + DEVICE + 4, 8),
        ("device", USER_BASE + DEVICE + 2, 2),
    ]


def test_indirect_table_is_read_where_it_lies(bench: Bench) -> None:
    driver = bench.driver(Split, INDIRECT_DESC)
    driver.add([Buffer(DATA, 4), Buffer(DATA + 8, 8, WRITE)], indirect=True, at=3)
    driver.notify()
    assert driver.used(0) == (3, 8)
    tables = [access for access in bench.backend.touched if access.what == "indirect"]
    assert [(access.space, access.address, access.size) for access in tables] == [
        ("gpa", GUEST_BASE + TABLE, 32)
    ]


def test_indirect_table_may_follow_buffers(bench: Bench) -> None:
    """See virtio 1.3, 2.7.5.3.2."""
    driver = bench.driver(Split, INDIRECT_DESC)
    bench.memory.put(DATA, b"headbody")
    driver.add([Buffer(DATA + 4, 4), Buffer(DATA + 0x100, 16, WRITE)], indirect=True)
    driver.add([Buffer(DATA, 4), Buffer(TABLE, 32, INDIRECT)], at=2)
    driver.notify()
    assert [driver.used(0), driver.used(1)] == [(0, 16), (2, 16)]
    assert [chain.readable for chain in bench.backend.served] == [b"body", b"headbody"]


def test_chains_are_served_past_the_wrap_of_ring_and_index(bench: Bench) -> None:
    """The base is near the end of the 16-bit index."""
    bench.memory.put(DEVICE + 2, struct.pack("<H", 0xFFFA))
    driver = bench.driver(Split, base=0xFFFA)
    for _ in range(3 * ENTRIES):
        driver.add(WRITABLE)
        driver.notify()
    assert driver.used_idx == (0xFFFA + 3 * ENTRIES) % 0x10000
    assert len(bench.backend.served) == 3 * ENTRIES
    reply = bench.front.ask(R.GET_VRING_BASE, struct.pack("=II", 0, 0))
    assert struct.unpack("=II", reply) == (0, driver.used_idx)


def test_several_chains_at_once(bench: Bench) -> None:
    driver = bench.driver(Split)
    for at in range(5):
        driver.add([Buffer(DATA + 64 * at, 16 + at, WRITE)], at=at)
    driver.notify()
    assert [driver.used(number) for number in range(5)] == [(at, 16 + at) for at in range(5)]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_legacy_ring_is_in_the_byte_order_that_was_told(
    bench: Bench, order: RingByteOrder, told: bool
) -> None:
    """SET_VRING_ENDIAN sets the order; without it, it is the host's."""
    driver = Split(
        bench.backend,
        bench.front,
        bench.memory,
        mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES]),
        order=order,
    )
    bench.owned.callback(driver.close)
    driver.connect()
    if told:
        big_endian = int(order == ">")
        bench.front.tell(R.SET_VRING_ENDIAN, struct.pack("=II", 0, big_endian))
    driver.enable()
    driver.add(WRITABLE)
    driver.notify()
    hosts = "<" if sys.byteorder == "little" else ">"
    assert (driver.used_idx == 1) == (told or order == hosts)


# when a ring is served


def test_ring_is_not_served_before_it_is_kicked(bench: Bench) -> None:
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.sync()
    assert driver.used_idx == 0
    assert bench.backend.touched == []


def test_disabled_ring_waits_until_it_is_enabled(bench: Bench) -> None:
    driver = bench.driver(Split)
    driver.enable(False)
    driver.add(WRITABLE)
    driver.notify()
    assert bench.backend.touched == []
    driver.enable()
    driver.sync()
    assert driver.used_idx == 1


def test_ring_that_is_named_before_the_features_are_acknowledged_is_disabled(bench: Bench) -> None:
    bench.front.tell(R.SET_VRING_NUM, struct.pack("=II", 0, 4))
    driver = bench.connected(Split)
    driver.add(WRITABLE)
    driver.notify()
    assert bench.backend.touched == []
    driver.enable()
    driver.sync()
    assert driver.used_idx == 1


def test_ring_is_enabled_where_nobody_negotiated_protocol_features(bench: Bench) -> None:
    driver = Split(bench.backend, bench.front, bench.memory, mask([FeatureBit.VERSION_1]))
    bench.owned.callback(driver.close)
    driver.connect()
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 1


def test_stopped_ring_goes_on_where_it_was(bench: Bench) -> None:
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.notify()
    reply = bench.front.ask(R.GET_VRING_BASE, struct.pack("=II", 0, 0))
    assert struct.unpack("=II", reply) == (0, 1)
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 1
    driver.connect()
    driver.notify()
    assert driver.used_idx == 2


def test_reset_device_disables_and_stops(bench: Bench) -> None:
    driver = bench.driver(Split)
    bench.front.tell(R.RESET_DEVICE)
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 0


def test_addresses_may_change_while_the_ring_runs(bench: Bench) -> None:
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.notify()
    driver.set_up()
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 2


def test_in_band_kick_starts_a_ring_without_an_eventfd(bench: Bench) -> None:
    wanted = mask([ProtocolFeature.INBAND_NOTIFICATIONS])
    bench.front.tell(R.SET_PROTOCOL_FEATURES, u64(wanted))
    driver = bench.driver(Split)
    bench.front.tell(R.SET_VRING_KICK, u64(1 << 8))
    driver.add(WRITABLE)
    driver.sync()
    assert driver.used_idx == 0
    bench.front.tell(R.VRING_KICK, struct.pack("=II", 0, 0))
    driver.sync()
    assert driver.used_idx == 1


def test_ring_without_any_kick_is_polled(bench: Bench) -> None:
    driver = bench.driver(Split)
    bench.front.tell(R.SET_VRING_KICK, u64(1 << 8))
    driver.add(WRITABLE)
    driver.wait_call()
    assert driver.used_idx == 1


# notifications


def test_driver_may_do_without_calls(bench: Bench) -> None:
    driver = bench.driver(Split)
    driver.set_driver_flags(1)
    driver.add(WRITABLE)
    driver.notify()
    assert (driver.used_idx, driver.calls()) == (1, 0)
    driver.set_driver_flags(0)
    driver.add(WRITABLE)
    driver.notify()
    assert (driver.used_idx, driver.calls()) == (2, 1)


def test_used_event_says_when_to_call(bench: Bench) -> None:
    driver = bench.driver(Split, EVENT_IDX)
    driver.set_used_event(2)
    seen = []
    for _ in range(4):
        driver.add(WRITABLE)
        driver.notify()
        seen.append(driver.calls())
    assert seen == [0, 0, 1, 0]


def test_avail_event_asks_for_the_next_kick(bench: Bench) -> None:
    driver = bench.driver(Split, EVENT_IDX)
    for number in range(3):
        driver.add(WRITABLE)
        driver.notify()
        assert driver.avail_event == number + 1


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
def test_packed_ring_is_served_past_its_wrap(bench: Bench, indirect: bool, event_idx: bool) -> None:
    bits = [FeatureBit.RING_PACKED, INDIRECT_DESC, *([EVENT_IDX] if event_idx else [])]
    driver = bench.driver(Packed, *bits)
    taken = 1 if indirect else 3
    bench.memory.put(DATA, b"what the driver says")
    for number in range(3 * ENTRIES):
        buffers = [Buffer(DATA, 4), Buffer(DATA + 4, 16), Buffer(DATA + 0x100, 32, WRITE)]
        driver.add(buffers, buffer_id=number % 5, indirect=indirect)
        driver.notify()
        assert driver.used(number * taken) == (number % 5, 32)
        if event_idx:
            at = (number + 1) * taken
            wrap = 0 if at // ENTRIES % 2 else 1 << 15
            assert driver.device_event == (at % ENTRIES | wrap, 2)
    assert {chain.readable for chain in bench.backend.served} == {b"what the driver says"}
    assert bench.memory.get(DATA + 0x100, 32) == pattern(32)


def test_packed_ring_says_where_to_go_on(bench: Bench) -> None:
    """Index and wrap counter of the available and used positions, 16 bits each."""
    driver = bench.driver(Packed, FeatureBit.RING_PACKED)
    for number in range(ENTRIES + 3):
        driver.add(WRITABLE, buffer_id=number)
        driver.notify()
    reply = bench.front.ask(R.GET_VRING_BASE, struct.pack("=II", 0, 0))
    assert struct.unpack("=II", reply) == (0, 3 | 3 << 16)
    driver.base = 3 | 3 << 16
    driver.connect()
    driver.add(WRITABLE, buffer_id=7)
    driver.notify()
    assert driver.used(ENTRIES + 3) == (7, 64)


@pytest.mark.parametrize(
    ("off_wrap", "flags", "calls"),
    [
        (0, 0, [1, 1, 1]),
        (0, 1, [0, 0, 0]),
        (1 | 1 << 15, 2, [0, 1, 0]),
        (0 | 0 << 15, 2, [0, 0, 0]),
    ],
)
def test_packed_driver_says_when_to_call(
    bench: Bench, off_wrap: int, flags: int, calls: list[int]
) -> None:
    """virtio 1.3, 2.8.14: always, never, at descriptor 1 of this lap, at 0 of the next."""
    driver = bench.driver(Packed, FeatureBit.RING_PACKED, EVENT_IDX)
    driver.set_driver_event(off_wrap, flags)
    seen = []
    for number in range(3):
        driver.add(WRITABLE, buffer_id=number)
        driver.notify()
        seen.append(driver.calls())
    assert seen == calls


def test_session_start_lets_go_of_the_one_before(bench: Bench) -> None:
    before = open_fds()
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.notify()
    assert open_fds() > before
    driver.close()
    bench.front.tell(R.SET_OWNER)
    bench.front.ask_u64(R.GET_QUEUE_NUM)
    assert open_fds() == before
