"""qap.vhost_user.backend behind an IOMMU: misses, permissions, waiting and cleanup."""

import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.vhost_user.chain_service import pattern
from qap.vhost_user.memory.iotlb import Iotlb, IotlbEntry, Permission
from qap.vhost_user.protocol import (
    REPLY,
    VERSION,
    BackendRequest,
    Disconnected,
    Message,
)

from .front_end import PATIENCE_S, Frontend, R, open_fds, u64
from .iommu import BOTH, PAGE, Iommu
from .ring_driver import (
    DATA,
    DESC,
    DEVICE,
    DRIVER,
    WRITE,
    Buffer,
)

READ_ONLY, WRITE_ONLY = Permission.READ, Permission.WRITE
NEVER_S = 0.05


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def iommu(tmp_path: Path, owned: ExitStack) -> Iommu:
    return Iommu(tmp_path, owned, reply_ack=True)


def last_error(iommu: Iommu) -> str:
    return str(iommu.backend.ring_errors[-1])


# the table


def test_lookup_is_by_range_and_permission() -> None:
    iotlb = Iotlb()
    iotlb.update(IotlbEntry(0x3000, 0x1000, 0x9000, READ_ONLY))
    iotlb.update(IotlbEntry(0x1000, 0x1000, 0x5000, BOTH))
    assert iotlb.find(0x1010, WRITE_ONLY) == (0x5010, 0xFF0)
    assert iotlb.find(0x3FFF, READ_ONLY) == (0x9FFF, 1)
    for iova, permission in ((0xFFF, 1), (0x2000, 1), (0x4000, 1), (0x3000, 2), (0x3000, 3)):
        assert iotlb.find(iova, permission) is None


def test_update_replaces_what_it_overlaps() -> None:
    iotlb = Iotlb()
    for page in range(4):
        iotlb.update(IotlbEntry(0x1000 * page, 0x1000, 0x10000, READ_ONLY))
    large = IotlbEntry(0x1000, 0x2000, 0x20000, BOTH)
    iotlb.update(large)
    assert [entry.iova for entry in iotlb.entries] == [0, 0x1000, 0x3000]
    assert iotlb.entries[1] == large


@pytest.mark.parametrize(
    ("iova", "size", "left"),
    [
        (0x1000, 0x1000, [0, 0x2000]),
        (0x1800, 1, [0, 0x2000]),
        (0x1FFF, 2, [0]),
        (0x1000, 0, [0]),
        (0, 1 << 63, []),
        (0x3000, 0x1000, [0, 0x1000, 0x2000]),
    ],
)
def test_invalidation_drops_what_it_touches(iova: int, size: int, left: list[int]) -> None:
    """A size of 0 stands for 2**64, which does not fit 64 bits."""
    iotlb = Iotlb()
    for page in range(3):
        iotlb.update(IotlbEntry(0x1000 * page, 0x1000, 0x10000, BOTH))
    iotlb.invalidate(iova, size)
    assert [entry.iova for entry in iotlb.entries] == left


# misses


def test_miss_is_asked_once_a_page(iommu: Iommu) -> None:
    iommu.driver.add([Buffer(DATA, 4), Buffer(DATA + 0x10, 16, WRITE)])
    iommu.kick()
    asked = [iommu.translate() for _ in range(4)]
    iommu.driver.sync()
    assert asked == [(DEVICE + 2, 1), (DRIVER + 2, 1), (DESC, 1), (DATA, 1)]
    assert iommu.driver.used(0) == (0, 16)
    assert iommu.memory.get(DATA + 0x10, 16) == pattern(16)
    assert {access.space for access in iommu.backend.touched} == {"iova"}
    iommu.driver.add([Buffer(DATA, 4)])
    iommu.kick()
    iommu.driver.sync()
    assert iommu.driver.used_idx == 2


def test_buffer_across_pages_that_lie_apart(iommu: Iommu) -> None:
    iommu.translate_rings()
    iommu.update(DATA, to=DATA)
    iommu.update(DATA + PAGE, to=DATA + 3 * PAGE)
    iommu.driver.add([Buffer(DATA + PAGE - 8, 24, WRITE)])
    iommu.kick()
    iommu.driver.sync()
    pieces = iommu.memory.get(DATA + PAGE - 8, 8), iommu.memory.get(DATA + 3 * PAGE, 16)
    assert b"".join(pieces) == pattern(24)


def test_readable_buffer_across_pages_that_lie_apart(iommu: Iommu) -> None:
    iommu.translate_rings()
    iommu.update(DATA, to=DATA)
    iommu.update(DATA + PAGE, to=DATA + 3 * PAGE)
    iommu.memory.put(DATA + PAGE - 3, b"abc")
    iommu.memory.put(DATA + 3 * PAGE, b"defg")
    iommu.driver.add([Buffer(DATA + PAGE - 3, 7)])
    iommu.kick()
    iommu.driver.sync()
    assert iommu.backend.served[0].readable == b"abcdefg"


def test_write_needs_the_permission(iommu: Iommu) -> None:
    """A read-only entry is a miss; if it stays read-only that is an error. A new kick retries."""
    iommu.translate_rings()
    iommu.update(DATA, READ_ONLY)
    iommu.driver.add([Buffer(DATA, 16, WRITE)])
    iommu.kick()
    assert iommu.missed() == (DATA, WRITE_ONLY)
    iommu.reply(1)
    iommu.driver.sync()
    assert iommu.memory.get(DATA, 16) == bytes(16)
    assert "doesn't let us write at IOVA 0x100004000" in last_error(iommu)
    assert (iommu.driver.used_idx, iommu.driver.errors()) == (0, 1)
    iommu.kick()
    assert iommu.missed() == (DATA, WRITE_ONLY)
    iommu.update(DATA, WRITE_ONLY)
    iommu.reply()
    iommu.driver.sync()
    assert iommu.driver.used(0) == (0, 16)


def test_mapping_that_is_gone_before_the_answer_is_missed_again(iommu: Iommu) -> None:
    """A guest unmaps a page and maps another there while the front-end answers."""
    iommu.translate_rings()
    iommu.driver.add([Buffer(DATA, 16, WRITE)])
    iommu.kick()
    assert iommu.missed() == (DATA, WRITE_ONLY)
    iommu.update(DATA)
    iommu.invalidate(DATA)
    iommu.reply()
    assert iommu.translate() == (DATA, WRITE_ONLY)
    iommu.driver.sync()
    assert (iommu.driver.used(0), iommu.driver.errors()) == ((0, 16), 0)


def test_mapping_that_is_gone_is_missed_again_without_replies(
    tmp_path: Path, owned: ExitStack
) -> None:
    iommu = Iommu(tmp_path, owned, reply_ack=False)
    iommu.translate_rings()
    iommu.driver.add([Buffer(DATA, 16, WRITE)])
    iommu.kick()
    assert iommu.missed() == (DATA, WRITE_ONLY)
    iommu.invalidate(DATA)
    assert iommu.missed() == (DATA, WRITE_ONLY)
    iommu.update(DATA)
    iommu.driver.sync()
    assert (iommu.driver.used(0), iommu.driver.errors()) == ((0, 16), 0)


def test_invalidated_page_is_missed_again(iommu: Iommu) -> None:
    iommu.translate_rings()
    iommu.update(DATA)
    iommu.invalidate(DATA)
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    assert iommu.translate() == (DATA, READ_ONLY)
    iommu.driver.sync()
    assert iommu.driver.used_idx == 1


@pytest.mark.parametrize("request_", [R.SET_MEM_TABLE, R.SET_FEATURES, R.SET_OWNER])
def test_entries_do_not_outlive_what_they_depend_on(iommu: Iommu, request_: R) -> None:
    """The front-end sends no invalidations for a stopped device."""
    iommu.translate_rings()
    iommu.update(DATA)
    if request_ == R.SET_OWNER:
        iommu.front.tell(R.SET_OWNER)
    iommu.driver.connect()
    iommu.driver.enable()
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    assert [iommu.translate()[0] & -PAGE for _ in range(4)] == [DEVICE, DRIVER, DESC, DATA]


def test_entry_that_leads_nowhere_is_an_error(iommu: Iommu) -> None:
    iommu.translate_rings()
    iommu.update(DATA, to=1 << 40)
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    iommu.driver.sync()
    assert "in no memory region" in last_error(iommu)


# waiting


def test_messages_are_answered_while_a_translation_is_awaited(iommu: Iommu) -> None:
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    offset, _ = iommu.missed()
    read = struct.pack("=III", 0, 8, 0) + bytes(8)
    assert iommu.front.ask(R.GET_CONFIG, read) == read
    iommu.update(offset)
    iommu.reply()
    for _ in range(3):
        iommu.translate()
    iommu.driver.sync()
    assert iommu.driver.used_idx == 1


def test_ring_that_is_stopped_while_it_waits_is_left_alone(iommu: Iommu) -> None:
    iommu.translate_rings()
    iommu.driver.add([Buffer(DATA, 16, WRITE)])
    iommu.kick()
    assert iommu.missed()[0] == DATA
    reply = iommu.front.ask(R.GET_VRING_BASE, struct.pack("=II", 0, 0))
    assert struct.unpack("=II", reply) == (0, 0)
    iommu.update(DATA)
    iommu.reply()
    iommu.driver.sync()
    assert iommu.memory.get(DATA, 16) == bytes(16)
    assert iommu.driver.used_idx == 0
    assert iommu.backend.ring_errors == []
    iommu.driver.connect()
    iommu.kick()
    for _ in range(4):
        iommu.translate()
    iommu.driver.sync()
    assert iommu.driver.used(0) == (0, 16)


def test_entry_alone_is_the_answer_without_reply_ack(tmp_path: Path, owned: ExitStack) -> None:
    iommu = Iommu(tmp_path, owned, reply_ack=False)
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    for _ in range(4):
        offset, _ = iommu.missed()
        assert not iommu.needs_reply
        iommu.update(offset)
    iommu.driver.sync()
    assert iommu.driver.used_idx == 1


@pytest.mark.parametrize("reply_ack", [False, True])
def test_unanswered_miss_is_given_up(tmp_path: Path, owned: ExitStack, reply_ack: bool) -> None:
    """A late reply to it is not taken for the reply to the next miss."""
    iommu = Iommu(tmp_path, owned, reply_ack=reply_ack)
    iommu.translate_rings()
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.backend.patience = NEVER_S
    iommu.kick()
    iommu.missed()
    iommu.driver.wait_error()
    assert f"waited {NEVER_S:g} s for" in last_error(iommu)
    iommu.backend.patience = PATIENCE_S
    if reply_ack:
        iommu.reply(1)
    iommu.kick()
    iommu.missed()
    iommu.update(DATA)
    if reply_ack:
        iommu.reply()
    iommu.driver.sync()
    assert iommu.driver.used_idx == 1


def test_no_channel_is_an_error_that_says_so(iommu: Iommu) -> None:
    iommu.sock.close()
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    iommu.driver.sync()
    assert "on the back-end channel, closed" in last_error(iommu)
    assert iommu.backend.error is None


def test_reply_to_something_else_is_no_answer(iommu: Iommu) -> None:
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    iommu.missed()
    iommu.channel.send(Message(BackendRequest.VRING_CALL, u64(0), VERSION | REPLY))
    iommu.driver.sync()
    assert "IOTLB_MSG (1) was answered with VRING_CALL (4)" in last_error(iommu)


def test_close_in_mid_wait_leaves_nothing(tmp_path: Path) -> None:
    """No file, mapping or thread is left, except for the front-end's own."""
    with ExitStack() as owned:
        before = open_fds()
        iommu = Iommu(tmp_path, owned, reply_ack=True)
        iommu.driver.add([Buffer(DATA, 16)])
        iommu.kick()
        iommu.missed()
        assert _mappings() == 2
        iommu.backend.close()
        # The connection, the channel, a memfd and its mapping's, three eventfds.
        assert open_fds() == before + 7
        assert _mappings() == 1
        assert str(iommu.backend.path) not in str(threading.enumerate())
        with pytest.raises(Disconnected):
            iommu.channel.receive()


def _mappings() -> int:
    """How many times the shared memory is mapped into this process."""
    return Path("/proc/self/maps").read_text().count("memfd:driver")


def test_hang_up_in_mid_wait_takes_the_next_connection(iommu: Iommu) -> None:
    iommu.driver.add([Buffer(DATA, 16)])
    iommu.kick()
    iommu.missed()
    iommu.backend.hang_up()
    iommu.front.expect_end()
    again = Frontend(iommu.backend.path)
    assert again.ask_u64(R.GET_QUEUE_NUM) == 8
    again.close()
