"""What an SEV-SNP guest asks its host for by a GHCB, above all many page states at once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.host.wait import poll_until
from qap.hw.ghcb import (
    ASKED,
    BUFFER,
    BUFFER_END,
    DONE,
    EXIT_CODE,
    EXIT_INFO1,
    EXIT_INFO2,
    INVALID_ENTRY,
    INVALID_HEADER,
    MALFORMED,
    SCRATCH,
    VALID_BITMAP,
    Event,
    Ghcb,
    Reason,
    bitmap,
)
from qap.hw.snp_cpu import NONE, Info, State, page_state_entry, page_state_list
from qap.hw.x86_page_tables import PAGE
from qap.machine.guest_memory import MIB
from qap.scenario.confidential import Shared
from qap.verify.kit.sev_guest import DATA
from qap.verify.kit.simulated_guest import MEMORY
from qap.verify.kit.snp_guest import GHCB, SnpGuest, snp_started

BEYOND = MEMORY * MIB
VGA = {"driver": "VGA", "romfile": ""}
SCREEN = 0xB8000  # VGA's text
ENTRIES = 253
LARGE = 512
U64 = (1 << 64) - 1


def entries(count: int, state: State) -> list[int]:
    """Entries for pages from DATA on."""
    return [page_state_entry(DATA + page * PAGE, state) for page in range(count)]


def test_many_pages_change_at_once(tmp_path: Path) -> None:
    """As many as fit, or as a large page has; hints change nothing."""
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        assert ghcb.change(page_state_list(entries(ENTRIES, State.SHARED))) == (DONE, 0)
        assert ghcb.done == ENTRIES
        assert Shared.of(guest.machine).holds(DATA, ENTRIES * PAGE)
        assert not guest.shared(DATA + ENTRIES * PAGE)
        assert ghcb.valid == bitmap([EXIT_INFO1, EXIT_INFO2])

        some = page_state_list(entries(ENTRIES, State.PRIVATE), first=3, last=9)
        assert ghcb.change(some) == (DONE, 0)
        assert [guest.shared(DATA + page * PAGE) for page in (2, 3, 9, 10)] == [
            *(True, False, False, True)
        ]

        hints = [page_state_entry(DATA, state, large=True) for state in (State.SPLIT, State.JOIN)]
        assert ghcb.change(page_state_list(hints)) == (DONE, 0)
        for state in (State.SHARED, State.PRIVATE):
            large = page_state_entry(DATA, state, large=True)
            assert ghcb.change(page_state_list([large])) == (DONE, 0)
            assert guest.machine.qtest.readq(GHCB + BUFFER + 8) == large | LARGE
            assert Shared.of(guest.machine).holds(DATA, 2 * MIB) == (state == State.SHARED)
            assert Shared.of(guest.machine).shared == 1 + LARGE * (state == State.SHARED)


@pytest.mark.parametrize(
    ("first", "last"), [(1, 0), (0xFFFF, 0), (0, ENTRIES), (0, 0xFFFF), (0xFFFF, 0xFFFF)]
)
def test_header_that_can_not_be_is_refused(tmp_path: Path, first: int, last: int) -> None:
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        pages = page_state_list(entries(ENTRIES, State.SHARED), first, last)
        assert ghcb.change(pages) == (DONE, INVALID_HEADER)
        assert Shared.of(guest.machine).shared == 1


@pytest.mark.parametrize(
    "wrong",
    [
        page_state_entry(DATA, 0),
        page_state_entry(DATA, 5),
        page_state_entry(BEYOND, State.SHARED),
        page_state_entry(BEYOND, State.PRIVATE, large=True),
        page_state_entry((1 << 52) - PAGE, State.SHARED),
        page_state_entry(DATA + PAGE, State.SHARED, large=True),
        page_state_entry(DATA, State.SHARED) | 1 << 57,
        page_state_entry(DATA, State.SHARED) | 1 << 63,
        page_state_entry(DATA, State.SHARED, done=2),
        page_state_entry(DATA, State.SHARED, large=True, done=LARGE + 1),
    ],
)
def test_change_that_can_not_be_is_refused(tmp_path: Path, wrong: int) -> None:
    """What is before it is done, what is behind is not."""
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        before, behind = DATA + 4 * MIB, DATA + 12 * MIB
        pages = [
            page_state_entry(before, State.SHARED),
            wrong,
            page_state_entry(behind, State.SHARED),
        ]
        assert ghcb.change(page_state_list(pages)) == (DONE, INVALID_ENTRY)
        assert ghcb.done == 1
        assert [guest.shared(page) for page in (before, DATA, behind)] == [True, False, False]


@pytest.mark.parametrize(
    "scratch", [0, 1, GHCB, GHCB + BUFFER - 1, GHCB + BUFFER_END - 7, DATA, U64]
)
def test_list_outside_of_the_buffer_is_refused(tmp_path: Path, scratch: int) -> None:
    """And so is none."""
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        assert ghcb.call(Event.PAGE_STATE_CHANGE) == (MALFORMED, Reason.MISSING_INPUT)
        ghcb.fields[SCRATCH] = scratch
        assert ghcb.change(page_state_list(entries(1, State.SHARED))) == (
            *(MALFORMED, Reason.INVALID_SCRATCH),
        )
        assert not guest.shared(DATA)


def test_list_ends_with_the_buffer(tmp_path: Path) -> None:
    """Whatever is behind is no entry."""
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        pages = page_state_list(entries(2, State.SHARED))
        ghcb.fields[SCRATCH] = GHCB + BUFFER_END - len(pages) + 8
        buffer = bytes(BUFFER_END - BUFFER - len(pages) + 8) + pages[:-8]
        assert ghcb.call(Event.PAGE_STATE_CHANGE, buffer=buffer) == (DONE, INVALID_HEADER)
        assert not guest.shared(DATA)


def test_host_leaves_a_ghcb_alone_that_it_has_taken_away(tmp_path: Path) -> None:
    """A change of the GHCB's own page is the last one, and is not answered in it."""
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        own = page_state_entry(GHCB, State.PRIVATE)
        pages = page_state_list([own, *entries(1, State.SHARED)])
        ghcb.prepare(Event.PAGE_STATE_CHANGE, 5, 6, buffer=pages)
        before = guest.machine.qtest.read(GHCB, PAGE)
        assert guest.snp.call(GHCB) == GHCB
        assert guest.machine.qtest.read(GHCB, PAGE) == before
        assert not guest.shared(GHCB)
        assert not guest.shared(DATA)


@pytest.mark.parametrize(
    ("version", "usage", "missing", "reason"),
    [
        (0, 0, None, Reason.INVALID_USAGE),
        (3, 0, None, Reason.INVALID_USAGE),
        (2, 1, None, Reason.INVALID_USAGE),
        *((2, 0, field, Reason.MISSING_INPUT) for field in ASKED),
    ],
)
def test_ghcb_that_can_not_be_used_is_refused(
    tmp_path: Path, version: int, usage: int, missing: int | None, reason: Reason
) -> None:
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        assert ghcb.call(Event.HV_FEATURES)[0] == DONE
        ghcb.version, ghcb.usage = version, usage
        ghcb.prepare(Event.HV_FEATURES)
        valid = bitmap([one for one in ASKED if one != missing])
        guest.machine.qtest.write(GHCB + VALID_BITMAP, valid)
        guest.snp.call(GHCB)
        assert ghcb.answer == (MALFORMED, reason)


def test_ghcb_has_to_be_shared_and_registered(tmp_path: Path) -> None:
    """In a private page, or one that is none of RAM, the host changes nothing."""
    with snp_started(tmp_path, devices=[VGA]) as guest:
        ghcb = Ghcb(guest.snp, GHCB)
        assert ghcb.register() == GHCB | Info.REGISTER_GPA_REQUEST + 1
        assert ghcb.call(Event.HV_FEATURES, 5, 6) == (5, 6)
        assert guest.machine.qtest.readq(GHCB + EXIT_CODE) == Event.HV_FEATURES
        guest.snp.set_page(GHCB, State.SHARED)
        assert ghcb.call(Event.HV_FEATURES)[0] == DONE
        guest.snp.set_page(GHCB, State.PRIVATE)
        assert ghcb.call(Event.HV_FEATURES, 5, 6) == (5, 6)
        other = Ghcb(guest.snp, GHCB + PAGE)
        guest.snp.set_page(other.address, State.SHARED)
        assert other.call(Event.HV_FEATURES) == (MALFORMED, Reason.NOT_REGISTERED)
        for address in (BEYOND, 0xFEC0_0000, 1 << 46, U64 & ~0xFFF):
            assert guest.snp.call(address) == address
        # It can be shared, but not be registered.
        assert guest.snp.set_page(SCREEN, State.SHARED) == 0
        assert guest.snp.call(SCREEN | Info.REGISTER_GPA_REQUEST) == NONE | 0x013
        assert guest.snp.call(SCREEN) == SCREEN
        assert ghcb.register() == GHCB | Info.REGISTER_GPA_REQUEST + 1


@pytest.mark.parametrize(
    "code", [0, 0x72, 0x7B, 0x7C, 0x400, Event.GUEST_REQUEST, 0x8000_0001, 0x8000_FFFF, U64]
)
def test_other_calls_are_refused(tmp_path: Path, code: int) -> None:
    """TCG executes what they are for, or they need what is not simulated."""
    with snp_started(tmp_path) as guest:
        assert guest.ghcb().call(code) == (MALFORMED, Reason.INVALID_EVENT)


def test_host_tells_its_features_and_ends_an_nmi(tmp_path: Path) -> None:
    with snp_started(tmp_path) as guest:
        ghcb = guest.ghcb()
        features = guest.snp.call(Info.HV_FEATURES_REQUEST) >> 12
        assert ghcb.call(Event.HV_FEATURES) == (DONE, features)
        assert ghcb.call(Event.NMI_COMPLETE) == (DONE, 0)


def test_guest_can_end_itself_by_its_ghcb(tmp_path: Path) -> None:
    with snp_started(tmp_path, extra=["-action", "panic=pause"]) as guest:
        vm = guest.machine
        guest.ghcb().prepare(Event.TERMINATION_REQUEST, 0x42 << 4 | 1)
        guest.snp.begin_call(GHCB)
        assert vm.qmp.wait_event("GUEST_PANICKED", lambda data: True, 10)["action"] == "pause"
        said = "the guest terminates itself: reason 0x42 of set 1"
        poll_until(lambda: said in vm.process.tail() or None, 10, lambda: f"QEMU to say {said}")


def test_any_ghcb_is_answered(tmp_path: Path) -> None:
    """Whatever is in a GHCB, QEMU lives on and writes to no private page."""
    with snp_started(tmp_path) as guest:
        check_any(guest)
        assert guest.machine.alive


WORDS = st.one_of(
    st.integers(0, U64),
    st.sampled_from([0, 1, U64, GHCB + BUFFER, DATA]),
    st.builds(
        page_state_entry,
        st.integers(0x400, 0x9000).map(lambda page: page * PAGE),
        st.integers(0, 15),
        large=st.booleans(),
        done=st.sampled_from([0, 1, LARGE, 0xFFF]),
    ),
)
ENDING = (Event.AP_RESET_HOLD, Event.AP_CREATION, Event.TERMINATION_REQUEST)


def check_any(guest: SnpGuest) -> None:
    """Give the host any GHCBs but those that end, halt or start a CPU."""

    @settings(max_examples=300, deadline=None, database=None)
    @given(
        code=st.one_of(
            st.sampled_from([one for one in Event if one not in ENDING]),
            st.integers(0, U64).filter(lambda code: code not in list(ENDING)),
        ),
        infos=st.tuples(WORDS, WORDS),
        first=st.integers(0, 300),
        last=st.integers(0, 300),
        words=st.lists(WORDS, max_size=ENTRIES),
        scratch=st.one_of(st.none(), st.integers(GHCB + BUFFER - 9, GHCB + BUFFER_END + 9)),
    )
    def check(
        code: int,
        infos: tuple[int, int],
        first: int,
        last: int,
        words: list[int],
        scratch: int | None,
    ) -> None:
        ghcb = guest.ghcb()
        if scratch is not None:
            ghcb.fields[SCRATCH] = scratch
        ghcb.prepare(code, *infos, buffer=page_state_list(words, first, last))
        before = guest.machine.qtest.read(GHCB, PAGE)
        assert guest.snp.call(GHCB) == GHCB
        if guest.shared(GHCB):
            assert ghcb.answer[0] in (DONE, MALFORMED)
        else:
            changed = guest.machine.qtest.read(GHCB, PAGE)
            assert changed[:BUFFER] == before[:BUFFER]

    check()
