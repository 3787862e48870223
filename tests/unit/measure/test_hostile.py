"""A hostile walk follows from its name, and what is written where it may not be is seen."""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.machine.catalog import device_types
from qap.machine.guest_memory import MIB
from qap.measure.hostile.arena import BASE, END, GAP, Arena, ArenaFull
from qap.measure.hostile.failure import Failure, crash_place, signature
from qap.measure.hostile.grammar import MOVES
from qap.measure.hostile.judge import Verdict
from qap.measure.hostile.name import BATCH, EpisodeName, step_numbers
from qap.measure.hostile.requests import DRAWS, request
from qap.measure.hostile.rings import AVAIL, INDIRECT, NEXT, USED, WRITE, Raw, RawRing
from qap.measure.hostile.shrink import Shrink
from qap.measure.hostile.target import targets
from qap.measure.hostile.walk import rng, walk
from qap.virtio.transports import TRANSPORTS

RAM = 128 * MIB
LEAK = """\
==42==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 56 byte(s) in 1 object(s) allocated from:
    #0 0x7f1 in malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x7f2 in g_malloc (/lib/x86_64-linux-gnu/libglib-2.0.so.0+0x5c)
    #2 0x55a in virtqueue_alloc_element ../../hw/virtio/virtio.c:1682
    #3 0x55b in virtio_balloon_receive_stats (/build/qemu-system-x86_64+0x30720e2)

SUMMARY: AddressSanitizer: 56 byte(s) leaked in 1 allocation(s).
"""


@pytest.fixture
def arena() -> Iterator[Arena]:
    file = os.memfd_create("ram")
    os.truncate(file, RAM)
    with mmap.mmap(file, RAM) as ram:
        arena = Arena(ram, file)
        arena.begin()
        yield arena
    os.close(file)


def test_name_gives_the_same_walk_twice_and_another_name_another() -> None:
    walks = [walk(EpisodeName(7, number)) for number in range(200)]
    assert walks == [walk(EpisodeName(7, number)) for number in range(200)]
    assert len({walked.steps for walked in walks}) == len(walks)
    assert walks != [walk(EpisodeName(8, number)) for number in range(200)]


def test_step_draws_the_same_without_those_before_it() -> None:
    walked = walk(EpisodeName(1, 5))
    number, step = walked.only((3,))[0]
    assert (number, step) == (3, walked.steps[3])
    assert rng(step).random() == rng(walked.steps[3]).random()


def test_every_target_has_its_turn() -> None:
    names = [EpisodeName(3, number * BATCH) for number in range(len(targets()))]
    assert {walk(name).target for name in names} == set(targets())


def test_every_device_type_is_driven_by_every_transport_that_it_has() -> None:
    for row in device_types().values():
        seen = {target.transport for target in targets() if target.device == row.name}
        if row.needs:
            assert seen == set()
            continue
        assert seen <= set(TRANSPORTS)
        kinds = set(row.every_transport)
        assert {transport.split()[0] for transport in seen} == kinds
        assert ("pci legacy" in seen) == (row.legacy and "pci" in kinds)


def test_every_move_is_drawn_somewhere() -> None:
    names = (EpisodeName(1, number) for number in range(len(targets()) * BATCH))
    assert {step.move for name in names for step in walk(name).steps} == set(MOVES)


@pytest.mark.parametrize("device", sorted({*DRAWS, "vhost-user-fs"}))
def test_requests_of_every_type_have_something_to_send(device: str) -> None:
    for number in range(300):
        drawn = request(device, EpisodeName(1, number).random())
        assert drawn.out or drawn.room


def test_names_are_read_as_they_are_written() -> None:
    names = [EpisodeName(4, 20), EpisodeName(4, 23)]
    assert EpisodeName.parse(EpisodeName.together(names)) == names
    assert EpisodeName.parse("4:20") == names[:1]
    assert step_numbers("0,12,3") == (0, 12, 3)


@pytest.mark.parametrize("name", ["7", "7:", "a:1", "1:2-3", "1:9,10", "1:-1"])
def test_what_names_no_episode_is_refused_in_words(name: str) -> None:
    with pytest.raises(UsageError, match=r"SEED:NUMBER|share no QEMU"):
        EpisodeName.parse(name)


def test_what_was_given_may_be_written(arena: Arena) -> None:
    at = arena.take(16)
    arena.give(0, at, 16)
    arena.ram[at : at + 16] = bytes(16)
    assert arena.strays() == ""


def test_a_byte_behind_what_was_given_is_a_stray(arena: Arena) -> None:
    at = arena.take(16)
    arena.give(0, at, 16)
    arena.ram[at + 16] = 0
    assert f"1 bytes from {at + 16:#x}" in arena.strays()


def test_what_the_driver_wrote_for_reading_may_not_be_written(arena: Arena) -> None:
    at = arena.take(4)
    arena.write(at, b"head")
    assert arena.strays() == ""
    arena.ram[at : at + 4] = b"HEAD"
    assert "4 bytes" in arena.strays()


def test_a_late_write_into_what_was_taken_back_is_a_stray(arena: Arena) -> None:
    one, other = arena.take(8), arena.take(8)
    arena.give(0, one, 8)
    arena.give(1, other, 8)
    arena.release(0)
    arena.ram[other : other + 8] = bytes(8)
    assert arena.strays() == ""
    arena.ram[one] = 0
    assert "1 bytes" in arena.strays()


def test_a_page_that_nobody_gave_is_a_stray_and_one_that_is_only_read_is_not(arena: Arena) -> None:
    assert arena.ram[100 * MIB] == 0
    assert arena.strays() == ""
    arena.ram[100 * MIB] = 1
    assert arena.strays() == "the page at 0x6400000, where it has nothing"
    arena.give(0, 100 * MIB, 1)
    assert arena.strays() == ""


def test_reset_gives_back_pages_elsewhere_as_they_were(arena: Arena) -> None:
    arena.give(0, 100 * MIB, 8)
    arena.ram[100 * MIB] = 1
    arena.release()
    assert arena.strays() == ""


def test_after_what_can_not_be_followed_nothing_counts_until_a_reset(arena: Arena) -> None:
    arena.told = False
    arena.ram[BASE + 9] = arena.ram[100 * MIB] = 1
    assert arena.strays() == ""
    arena.release()
    assert arena.told
    assert arena.strays() == ""
    arena.ram[BASE + 9] = 1
    assert arena.strays()


def test_pieces_never_touch_and_end_with_the_arena(arena: Arena) -> None:
    first, second = arena.take(10), arena.take(10)
    assert second >= first + 10 + GAP
    with pytest.raises(ArenaFull):
        arena.take(END - BASE)


@pytest.mark.parametrize("packed", [False, True])
def test_chain_is_well_formed_and_made_available(arena: Arena, packed: bool) -> None:
    ring = RawRing.make(arena, 0, 4, most=4, packed=packed, order="<")
    ring.position = 3
    ring.post(ring.chained([Raw(BASE, 1), Raw(BASE, 2, WRITE)]))
    read = [arena.read(ring.place.desc + 16 * slot, 16) for slot in (3, 0)]
    if packed:
        words = [struct.unpack("<QIHH", raw) for raw in read]
        # The second one is in the ring's next lap, where the meaning of the flags is turned.
        assert [(length, flags) for _, length, _, flags in words] == [
            (1, NEXT | AVAIL),
            (2, WRITE | USED),
        ]
        assert len({buffer for _, _, buffer, _ in words}) == 1
    else:
        assert [struct.unpack("<QIHH", raw)[1:] for raw in read] == [(1, NEXT, 0), (2, WRITE, 1)]
        assert struct.unpack("<HHH", arena.read(ring.place.driver, 6)) == (0, 1, 3)


def test_descriptors_that_were_scribbled_are_given(arena: Arena) -> None:
    ring = RawRing.make(arena, 0, 4, most=4, packed=False, order="<")
    target = arena.take(8)
    ring.scribble(ring.place.desc, struct.pack("<QIHH", target, 8, INDIRECT, 0))
    arena.ram[target] = 0
    assert arena.strays() == ""


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("Program received signal SIGSEGV, Segmentation fault.\n"
         "0x0000555555a in memory_region_unref ()\n"
         "#0  0x0000555555a in memory_region_unref ()\n#1  0x00 in main ()\n",
         "memory_region_unref"),
        ("received signal SIGSEGV\n#0  0x1 in __memcpy (x=1)\n#1  0x2 in iov_to_buf (y=2)\n",
         "iov_to_buf"),
        ("[Inferior 1 exited normally]\n", ""),
    ],
)  # fmt: skip
def test_debugger_tells_the_place_of_a_crash(said: str, place: str) -> None:
    assert crash_place(said) == place


@pytest.mark.parametrize(
    ("error", "group"),
    [
        (Verdict("stray write", "wrote 8 bytes from 0x1000 on (00)"), "stray write of virtio-rng"),
        (Verdict("late", "waited 5 s for queue 3"), "late: waited N s for queue N"),
        (
            Verdict("sanitizer", "a.c:1:2: runtime error: shift of 33"),
            "sanitizer: a.c:N:N: runtime error: shift of N",
        ),
        (Verdict("sanitizer", LEAK), "leak in virtio_balloon_receive_stats"),
        (TimeoutError("waited 5 s for the answer to qtest writel 0xfe 0x1"),
         "hang: waited N s for the answer to qtest writel N N"),
    ],
)  # fmt: skip
def test_signature_leaves_out_what_differs_each_time(error: Exception, group: str) -> None:
    assert signature(error, "virtio-rng") == group


def test_hang_is_named_by_its_place() -> None:
    assert signature(TimeoutError("waited"), "virtio-net", "drop_all") == "hang in drop_all"


def test_shrinking_keeps_what_is_needed() -> None:
    failure = Failure("1:2", "", "signal 11", "", ())
    shrink = Shrink(Build("lab"), failure, 1.0)
    shrink._deadline = float("inf")
    assert shrink._fewest(list(range(20)), lambda some: {3, 11} <= set(some)) == [3, 11]
    assert shrink._fewest([1], lambda some: True) == []
