"""Memory that a front-end shares with qap.vhost_user.backend: regions, log, inflight buffer."""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.oracle.features import FeatureBit
from qap.vhost_user.memory.dirty_log import LOG_ALL
from qap.vhost_user.memory.mem_table import BadAddress, MemTable
from qap.vhost_user.protocol import NEED_REPLY, VERSION, ProtocolError, ProtocolFeature

from .front_end import R, memfd, open_fds, u64
from .ring_driver import (
    DATA,
    DESC,
    DEVICE,
    DRIVER,
    ENTRIES,
    GUEST_BASE,
    SIZE,
    USER_BASE,
    WRITE,
    Bench,
    Buffer,
    Packed,
    Split,
)

WRITABLE = [Buffer(DATA, 64, WRITE)]
PAGE = 0x1000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as owned:
        yield Bench(tmp_path, owned)


# regions


def test_address_is_found_in_its_region() -> None:
    with memfd(3 * PAGE) as fd, MemTable() as table:
        os.pwrite(fd, b"low", 0)
        os.pwrite(fd, b"high", 2 * PAGE + 8)
        table.replace([(0x1000, PAGE, 0x7000, 0), (0x9000, 16, 0xF000, 2 * PAGE + 8)], [fd, fd])
        for place in (table.at_guest(0x9002), table.at_user(0xF002)):
            region, at = place
            assert region.mapping[region.shift + at : region.shift + at + 2] == b"gh"
        region, at = table.at_guest(0x1FFF)
        assert (region.user_address, at) == (0x7000, PAGE - 1)
        for outside in (0xFFF, 0x2000, 0x9010):
            with pytest.raises(BadAddress, match=f"{outside:#x} is in no memory region"):
                table.at_guest(outside)


def test_region_beyond_its_file_is_refused_and_nothing_stays() -> None:
    with memfd(PAGE) as fd:
        before = open_fds()
        with MemTable() as table, pytest.raises(ProtocolError, match="can't be mapped"):
            table.replace([(0, PAGE, 0x7000, 0), (PAGE, PAGE, 0x8000, PAGE)], [fd, fd])
        assert open_fds() == before


def test_every_region_needs_its_file() -> None:
    with pytest.raises(ProtocolError, match="1 memory regions came with 0 files"):
        MemTable().replace([(0, PAGE, 0x7000, 0)], [])


def test_removed_region_is_gone_and_another_is_not_known(bench: Bench) -> None:
    driver = bench.driver(Split)
    region = struct.pack("=QQQQQ", 0, GUEST_BASE, SIZE, USER_BASE, 0)
    other = struct.pack("=QQQQQ", 0, GUEST_BASE, SIZE - 1, USER_BASE, 0)
    before = open_fds()
    assert bench.front.ask_u64(R.REM_MEM_REG, region, VERSION | NEED_REPLY) == 0
    assert open_fds() == before - 1
    driver.add(WRITABLE)
    driver.notify()
    assert "is in no memory region" in str(bench.backend.ring_errors[0])
    bench.front.tell(R.ADD_MEM_REG, region, fds=[bench.memory.fd])
    driver.notify()
    assert driver.used_idx == 1
    bench.backend.expect(ProtocolError)
    bench.front.tell(R.REM_MEM_REG, other)
    bench.front.expect_end()
    assert "no region of 0xffff bytes" in str(bench.backend.error)


def test_regions_may_move_under_a_running_ring(bench: Bench) -> None:
    """The next chain is read from the new place of the region."""
    driver = bench.driver(Split)
    driver.add(WRITABLE)
    driver.notify()
    moved = struct.pack("=IIQQQQ", 1, 0, GUEST_BASE + SIZE, SIZE, USER_BASE, 0)
    bench.front.tell(R.SET_MEM_TABLE, moved, fds=[bench.memory.fd])
    driver.buffers = GUEST_BASE + SIZE
    driver.add(WRITABLE)
    driver.notify()
    assert driver.used_idx == 2


# dirty log


def dirty(log: int) -> set[int]:
    """Numbers of the pages whose bit is set."""
    raw = os.pread(log, 1 << 20, 0)
    return {8 * byte + bit for byte in range(len(raw)) for bit in range(8) if raw[byte] >> bit & 1}


@pytest.mark.parametrize("logs_ring", [False, True])
def test_written_pages_are_logged(bench: Bench, logs_ring: bool) -> None:
    """Buffers at their guest addresses, the used ring at the address in SET_VRING_ADDR."""
    bench.front.tell(R.SET_PROTOCOL_FEATURES, u64(1 << ProtocolFeature.LOG_SHMFD))
    driver = bench.driver(Split, LOG_ALL)
    ring_log = 0x123 * PAGE
    where = USER_BASE + DESC, USER_BASE + DEVICE, USER_BASE + DRIVER
    addresses = struct.pack("=IIQQQQ", 0, int(logs_ring), *where, ring_log)
    bench.front.tell(R.SET_VRING_ADDR, addresses)
    with memfd(1 << 16) as log:
        bench.front.tell(R.SET_LOG_BASE, struct.pack("=QQ", 1 << 16, 0), fds=[log])
        assert bench.front.answer(R.SET_LOG_BASE) == b""
        driver.add([Buffer(DATA, 8), Buffer(DATA + 2 * PAGE - 8, 16, WRITE)])
        driver.notify()
        assert driver.used_idx == 1
        first = (GUEST_BASE + DATA) // PAGE
        assert dirty(log) == {first + 1, first + 2} | ({0x123} if logs_ring else set())


def test_nothing_is_logged_without_log_all(bench: Bench) -> None:
    bench.front.tell(R.SET_PROTOCOL_FEATURES, u64(1 << ProtocolFeature.LOG_SHMFD))
    driver = bench.driver(Split)
    with memfd(1 << 16) as log:
        bench.front.tell(R.SET_LOG_BASE, struct.pack("=QQ", 1 << 16, 0), fds=[log])
        bench.front.answer(R.SET_LOG_BASE)
        driver.add(WRITABLE)
        driver.notify()
        assert dirty(log) == set()


# inflight buffer, with the names of vhost-user.rst


class Buffered:
    """The inflight buffer as the front-end sees it."""

    def __init__(self, bench: Bench) -> None:
        asked = struct.pack("=QQHH4x", 0, 0, 1, ENTRIES)
        bench.front.tell(R.GET_INFLIGHT_FD, asked)
        with bench.front.channel.receive() as reply:
            size, offset = struct.unpack_from("=QQ", reply.payload)
            self.map = mmap.mmap(reply.fds[0], size, offset=offset)
            bench.owned.callback(self.map.close)
            bench.front.tell(R.SET_INFLIGHT_FD, reply.payload, fds=reply.fds)

    def split_head(self) -> tuple[int, ...]:
        """features, version, desc_num, last_batch_head, used_idx."""
        return struct.unpack_from("=QHHHH", self.map)

    def split(self, at: int) -> tuple[int, int, int]:
        """inflight, next, counter."""
        inflight, following, counter = struct.unpack_from("=B5xHQ", self.map, 16 + 16 * at)
        return inflight, following, counter


def test_split_chain_is_in_flight_from_when_it_is_taken(bench: Bench) -> None:
    driver = bench.driver(Split)
    buffer = Buffered(bench)
    seen: list[tuple[int, int, int]] = []

    def service(queue: int, readable: bytes, room: int) -> bytes:
        seen.append(buffer.split(len(seen)))
        return b""

    bench.backend.service = service
    for at in range(3):
        driver.add(WRITABLE, at=at)
    driver.notify()
    assert [(inflight, counter) for inflight, _, counter in seen] == [(1, 1), (1, 2), (1, 3)]
    assert [buffer.split(at)[0] for at in range(3)] == [0, 0, 0]
    assert buffer.split_head() == (0, 1, ENTRIES, 2, 3)
    assert buffer.split(2)[1] == 1


@pytest.mark.parametrize("kind", [Split, Packed])
def test_kept_chains_stay_in_flight(bench: Bench, kind: type[Split] | type[Packed]) -> None:
    bits = [FeatureBit.RING_PACKED] if kind is Packed else []
    driver = bench.driver(kind, *bits)
    Buffered(bench)
    answers = iter([None, b"", None])
    bench.backend.service = lambda queue, readable, room: next(answers)
    for number in range(3):
        buffers = [Buffer(DATA, 64, WRITE), Buffer(DATA + 64, 64, WRITE)]
        if isinstance(driver, Packed):
            driver.add(buffers, buffer_id=2 * number)
        else:
            driver.add(buffers, at=2 * number)
    driver.notify()
    assert bench.backend.in_flight(0) == [0, 4]


def test_packed_chain_is_described_while_it_is_in_flight(bench: Bench) -> None:
    """First the head entry and descriptors are used, then all are free, in another order."""
    driver = bench.driver(Packed, FeatureBit.RING_PACKED)
    buffer = Buffered(bench)
    seen: list[tuple[int, ...]] = []

    def service(queue: int, readable: bytes, room: int) -> bytes:
        seen.extend(struct.unpack_from("=BxHHHQHHIQ", buffer.map, 32 + 32 * at) for at in (0, 1))
        return b""

    bench.backend.service = service
    driver.add([Buffer(DATA, 4), Buffer(DATA + 8, 16, WRITE)], buffer_id=5)
    driver.notify()
    head, second = seen
    inflight, _, last, count, counter, *described = head
    assert (inflight, last, count, counter) == (1, 1, 2, 1)
    assert (described[0], described[2], described[3]) == (5, 4, GUEST_BASE + DATA)
    assert (second[5], second[7], second[8]) == (5, 16, GUEST_BASE + DATA + 8)
    fields = struct.unpack_from("=QHHHHHHBB", buffer.map)
    features, version, entries, free, old_free, used, old_used, wrap, old_wrap = fields
    assert (features, version, entries) == (0, 1, ENTRIES)
    assert (free, old_free, used, old_used, wrap, old_wrap) == (0, 0, 2, 2, 1, 1)


def test_ring_larger_than_its_inflight_buffer_is_an_error(bench: Bench) -> None:
    driver = bench.driver(Split)
    Buffered(bench)
    bench.front.tell(R.SET_VRING_NUM, struct.pack("=II", 0, 2 * ENTRIES))
    driver.add(WRITABLE)
    driver.notify()
    assert "larger than SET_INFLIGHT_FD said" in str(bench.backend.ring_errors[0])
