"""The ultravisor's answers to a Secure Execution guest, and the map of what it shares."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.host.wait import poll_until
from qap.hw.s390x_cpu import Cpu, CpuLost, Instruction, ProgramCheck
from qap.hw.ultravisor import (
    FACILITY,
    HEADER,
    QUERY_SIZE,
    SHARE_SIZE,
    Rc,
    UvCommand,
    convert,
    facilities,
    query,
)
from qap.machine.guest_memory import MIB, PAGE
from qap.verify.kit.se_guest import MEMORY, PAGES, SeGuest, Start


def test_facility_is_there_with_the_object_alone(start: Start) -> None:
    with_it, without = start(), start(machine="s390-ccw-virtio")
    assert facilities(with_it.cpu) - facilities(without.cpu) == {FACILITY}


def test_without_the_object_the_instruction_is_none(start: Start) -> None:
    with pytest.raises(ProgramCheck, match="operation"):
        start(machine="s390-ccw-virtio").ultravisor.query()


def test_query_lists_query_and_share_and_unshare(start: Start) -> None:
    guest = start()
    assert guest.ultravisor.query() == {0, 8, 9}


@pytest.mark.parametrize("more", [8, 16, 13, 0x400])
def test_query_fills_a_longer_block_and_no_more(start: Start, more: int) -> None:
    guest = start()
    block = query(QUERY_SIZE + more)[:QUERY_SIZE] + b"\xa5" * (more + 8)
    answer = guest.ultravisor.call(block)
    assert answer.block[QUERY_SIZE:] == bytes(more) + b"\xa5" * 8


@pytest.mark.parametrize(
    ("block", "rc"),
    [
        (query(QUERY_SIZE - 8), Rc.INVALID_LENGTH),
        (query(8), Rc.INVALID_LENGTH),
        (HEADER.pack(0, UvCommand.QUERY, 0, 0), Rc.INVALID_LENGTH),
        (HEADER.pack(SHARE_SIZE - 8, UvCommand.SET_SHARED_ACCESS, 0, 0), Rc.INVALID_LENGTH),
        (HEADER.pack(SHARE_SIZE + 8, UvCommand.REMOVE_SHARED_ACCESS, 0, 0), Rc.INVALID_LENGTH),
        (HEADER.pack(8, 0, 0, 0), Rc.INVALID_COMMAND),
        (HEADER.pack(8, 0x0300, 0, 0), Rc.INVALID_COMMAND),
        (HEADER.pack(SHARE_SIZE, 0xFFFF, 0, 0), Rc.INVALID_COMMAND),
    ],
)
def test_bad_call_ends_with_condition_1_and_its_code(start: Start, block: bytes, rc: Rc) -> None:
    guest = start()
    answer = guest.ultravisor.call(block)
    assert (answer.condition, answer.rc) == (1, rc)


def test_page_that_is_no_memory_cannot_be_shared(start: Start) -> None:
    guest = start()
    answer = guest.ultravisor.call(convert(UvCommand.SET_SHARED_ACCESS, MEMORY * MIB))
    assert answer.condition == 1
    assert answer.rc not in set(Rc)


def test_block_that_is_not_aligned_is_a_specification_exception(
    start: Start,
) -> None:
    guest = start()
    with pytest.raises(ProgramCheck, match="specification"):
        guest.ultravisor.call(query(), offset=4)


def test_block_beyond_memory_is_an_addressing_exception(start: Start) -> None:
    guest = start()
    with pytest.raises(ProgramCheck, match="addressing"):
        guest.ultravisor.call_at(MEMORY * MIB)


def test_block_that_ends_beyond_memory_is_an_addressing_exception(
    start: Start,
) -> None:
    guest = start()
    guest.machine.qtest.write(MEMORY * MIB - 8, query()[:8])
    with pytest.raises(ProgramCheck, match="addressing"):
        guest.ultravisor.call_at(MEMORY * MIB - 8)


def test_all_is_shared_until_the_first_call(start: Start) -> None:
    guest = start()
    before = guest.info
    guest.ultravisor.call(HEADER.pack(8, 0, 0, 0))
    after = guest.info
    assert (before["protecting"], before["shared-pages"], before["private-pages"]) == (
        False,
        PAGES,
        0,
    )
    assert (after["protecting"], after["shared-pages"], after["private-pages"]) == (True, 0, PAGES)
    assert after["mode"] == "secure-execution"


def test_shared_pages_are_listed_as_ranges(start: Start) -> None:
    guest = start()
    guest.ultravisor.share(16 * MIB, 5 * PAGE)
    guest.ultravisor.unshare(16 * MIB + 2 * PAGE)
    guest.ultravisor.share(MEMORY * MIB - PAGE)
    info = guest.info
    assert info["shared"] == [
        {"start": 16 * MIB, "size": 2 * PAGE},
        {"start": 16 * MIB + 3 * PAGE, "size": 2 * PAGE},
        {"start": MEMORY * MIB - PAGE, "size": PAGE},
    ]
    assert (info["shared-pages"], info["private-pages"]) == (5, PAGES - 5)


def test_call_that_ends_with_an_access_exception_has_not_begun(start: Start) -> None:
    """An exception in any part of the block, not only in its header."""
    guest = start()
    guest.machine.qtest.write(MEMORY * MIB - 8, query()[:8])
    with pytest.raises(ProgramCheck, match="addressing"):
        guest.ultravisor.call_at(MEMORY * MIB - 8)
    assert not guest.info["protecting"]


def test_any_address_in_a_page_names_it(start: Start) -> None:
    guest = start()
    guest.ultravisor.call(convert(UvCommand.SET_SHARED_ACCESS, 16 * MIB + 0x123))
    assert guest.info["shared"] == [{"start": 16 * MIB, "size": PAGE}]


def test_human_monitor_shows_it(start: Start) -> None:
    guest = start()
    guest.ultravisor.share(16 * MIB, 2 * PAGE)
    said = guest.machine.qmp.hmp("info confidential-sim")
    assert "mode: secure-execution" in said
    assert "shared: 0x1000000-0x1001fff" in said


def test_human_monitor_says_that_there_is_none(start: Start) -> None:
    machine = start(machine="s390-ccw-virtio").machine
    assert "has no x-confidential-sim" in machine.qmp.hmp("info confidential-sim")


def test_any_control_block_is_answered(start: Start) -> None:
    guest = start()

    @settings(max_examples=300, deadline=None, database=None)
    @given(block=st.binary(min_size=8, max_size=256), offset=st.integers(0, 4096 // 8))
    def check(block: bytes, offset: int) -> None:
        answer = guest.ultravisor.call(block, offset=offset % 8 * 8)
        assert (answer.condition == 0) == (answer.rc == Rc.EXECUTED)
        assert answer.block[:4] == block[:4]

    check()


def test_map_is_what_the_answers_say(start: Start) -> None:
    guest = start()

    @settings(max_examples=200, deadline=None, database=None)
    @given(
        command=st.sampled_from([1, 0x1000, 0x1001]) | st.integers(0, 0xFFFF),
        size=st.sampled_from([0, 8, 0x28, SHARE_SIZE, 0x38, 0xA0, 0xFFFF]) | st.integers(0, 0xFFFF),
        address=st.integers(0, 2 * MEMORY * MIB) | st.integers(0, (1 << 64) - 1),
    )
    def check(command: int, size: int, address: int) -> None:
        was = shares(guest, address)
        block = struct.pack(">HHHH24xQ8x", size, command, 0, 0, address)
        answer = guest.ultravisor.call(block)
        now = shares(guest, address)
        if answer.condition or command == UvCommand.QUERY:
            assert now == was or not was
        else:
            assert now == (command == UvCommand.SET_SHARED_ACCESS)

    check()


def shares(guest: SeGuest, address: int) -> bool:
    """Whether a protected guest shares the page of an address."""
    info = guest.info
    ranges = [(shared["start"], shared["start"] + shared["size"]) for shared in info["shared"]]
    return info["protecting"] and any(low <= address < high for low, high in ranges)


def test_system_reset_shares_all_again(start: Start) -> None:
    guest = start()
    guest.ultravisor.query()
    guest.machine.qmp.execute("system_reset")
    guest.machine.qmp.wait_event("RESET", lambda data: True, 10)
    info = guest.info
    assert (info["protecting"], info["private-pages"]) == (False, 0)
    guest.ultravisor.query()
    assert guest.info["protecting"]


@pytest.mark.parametrize("subcode", [0, 1], ids=["modified clear", "load normal"])
def test_diagnose_308_shares_all_again(start: Start, subcode: int) -> None:
    guest = start()
    guest.ultravisor.query()
    # DIAG r1, r3, 0x308: the subcode is in r3.
    diagnose = Instruction(struct.pack(">BBH", 0x83, 0 << 4 | 3, 0x308), {3: subcode})
    impatient = Cpu(guest.machine.qtest, guest.machine.serial, timeout=0.5)
    with pytest.raises((TimeoutError, CpuLost)):
        impatient.run([diagnose])
    poll_until(
        lambda: not guest.info["protecting"] or None, 10, lambda: "all memory to be shared again"
    )
