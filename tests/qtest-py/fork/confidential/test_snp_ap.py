"""CPUs that an SEV-SNP guest starts itself, in a state that it gives its host."""

from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw import ghcb, vmsa
from qap.hw.ghcb import DONE, MALFORMED, Event, Ghcb, Reason
from qap.hw.snp_cpu import VMPL1, VMSA, Info, Result, State
from qap.hw.vmsa import SNP_ACTIVE, Vmsa
from qap.hw.x86_page_tables import PAGE
from qap.verify.kit.sev_guest import DATA
from qap.verify.kit.simulated_guest import MEMORY
from qap.verify.kit.snp_guest import GHCB, SnpGuest, snp_started

STATE = DATA + 16 * PAGE  # where the VMSA is
CODE, LEFT = DATA + PAGE, DATA + 2 * PAGE  # above 1 MiB, where real mode does not reach
CREATE, DESTROY = 1, 2
TWO = ["-smp", "2"]
ANSWER_S = 10
BEYOND = MEMORY << 20
# mov %eax, 0; mov %ebx, 4; mov %cr4, %eax; mov %eax, 8; then count at 12 for ever:
# 1: incl 12; jmp 1b; all of it in 16 bits.
AP_CODE = bytes.fromhex("66a30000 66891e0400 0f20e0 66a30800 66ff060c00 ebf9")
OSFXSR = 1 << 9


def ready(guest: SnpGuest, fields: dict[int, int] | None = None) -> Ghcb:
    """Make a state, and a GHCB to give it by."""
    qtest = guest.machine.qtest
    qtest.write(CODE, AP_CODE)
    qtest.write(LEFT, bytes(16))
    qtest.write(STATE, Vmsa(CODE, LEFT, fields or {}).page)
    assert guest.snp.rmpadjust(STATE, VMPL1 | VMSA) == Result.SUCCESS
    page = guest.ghcb()
    page.fields[ghcb.RAX] = SNP_ACTIVE
    return page


def wait_until_running(guest: SnpGuest) -> None:
    """Until the CPU that began at CODE has counted further."""
    counted = guest.machine.qtest.readl(LEFT + 12)
    poll_until(
        lambda: guest.machine.qtest.readl(LEFT + 12) != counted or None,
        ANSWER_S,
        lambda: "the other CPU to run",
    )


def wait_until_begun(guest: SnpGuest) -> None:
    """Until a CPU has stored what is before its count; it was zeroes."""
    poll_until(
        lambda: guest.machine.qtest.readl(LEFT + 8) or None,
        ANSWER_S,
        lambda: "the other CPU to begin",
    )


def wait_until_halted(guest: SnpGuest, cpu: int) -> None:
    """Until this CPU has halted."""

    def halted() -> bool | None:
        text = guest.machine.qmp.hmp("info registers -a")
        return "HLT=1" in text.split("CPU#")[cpu + 1] or None

    poll_until(halted, ANSWER_S, lambda: f"CPU {cpu} to halt")


def test_cpu_starts_in_the_state_that_it_is_given(tmp_path: Path) -> None:
    """Where, with which registers and CR4; a state can be given again, and taken away."""
    with snp_started(tmp_path, extra=TWO) as guest:
        fields = {vmsa.RAX: 0x1234_5678, vmsa.RBX: 0x8765_4321, vmsa.CR4: OSFXSR}
        page = ready(guest, fields)
        assert page.call(Event.HV_FEATURES) == (DONE, 3)
        wait_until_halted(guest, 1)
        for value in (0x1234_5678, 0x1357_9BDF):
            guest.machine.qtest.write(LEFT, bytes(16))
            guest.machine.qtest.writeq(STATE + vmsa.RAX, value)
            assert page.call(Event.AP_CREATION, 1 << 32 | CREATE, STATE) == (DONE, 0)
            wait_until_begun(guest)
            left = [guest.machine.qtest.readl(LEFT + offset) for offset in (0, 4, 8)]
            assert left == [value, 0x8765_4321, OSFXSR]
        assert page.call(Event.AP_CREATION, 1 << 32 | DESTROY) == (DONE, 0)
        wait_until_halted(guest, 1)
        assert page.call(Event.AP_CREATION, 1 << 32 | CREATE, STATE) == (DONE, 0)
        wait_until_running(guest)


def test_cpu_can_start_itself_anew(tmp_path: Path) -> None:
    with snp_started(tmp_path) as guest:
        page = ready(guest)
        page.prepare(Event.AP_CREATION, CREATE, STATE)
        guest.snp.begin_call(GHCB)
        wait_until_running(guest)
        assert page.answer == (DONE, 0)


def test_cpu_that_waits_is_started_by_another_state(tmp_path: Path) -> None:
    """The second CPU has stopped the first."""
    with snp_started(tmp_path, extra=TWO) as guest:
        page = ready(guest)
        assert page.call(Event.AP_CREATION, 1 << 32 | CREATE, STATE) == (DONE, 0)
        wait_until_running(guest)
        page.prepare(Event.AP_RESET_HOLD)
        guest.snp.begin_call(GHCB)
        wait_until_halted(guest, 0)
        assert page.answer == (DONE, 0)
        wait_until_running(guest)


@pytest.mark.parametrize(
    "fields",
    [
        {vmsa.VMPL: 1},
        {vmsa.EFER: 0},
        {vmsa.EFER: 0xD00 | vmsa.SVME},
        {vmsa.CR0: vmsa.RESET_CR0 | 1},
        {vmsa.CR0: vmsa.RESET_CR0 | 1 << 31},
        {vmsa.CR0: vmsa.RESET_CR0 | 1 << 32},
        {vmsa.CR4: 1 << 15},
        {vmsa.CR4: 1 << 63},
        {vmsa.SEV_FEATURES: 0},
        {vmsa.SEV_FEATURES: 3},
    ],
)
def test_state_that_can_not_be_is_refused(tmp_path: Path, fields: dict[int, int]) -> None:
    with snp_started(tmp_path, extra=TWO) as guest:
        page = ready(guest, fields)
        refused = (MALFORMED, Reason.INVALID_INPUT)
        assert page.call(Event.AP_CREATION, 1 << 32 | CREATE, STATE) == refused
        wait_until_halted(guest, 1)


@pytest.mark.parametrize(
    ("info1", "info2"),
    [
        (2 << 32 | CREATE, STATE),
        (0xFFFF_FFFF << 32 | CREATE, STATE),
        (2 << 32 | DESTROY, 0),
        (1 << 32 | 0, STATE),
        (1 << 32 | 3, STATE),
        (1 << 32 | 1 << 16 | CREATE, STATE),
        (1 << 32 | 1 << 16 | DESTROY, 0),
        (1 << 32 | CREATE, STATE + 8),
        (1 << 32 | CREATE, STATE + PAGE),
        (1 << 32 | CREATE, GHCB),
        (1 << 32 | CREATE, BEYOND),
        (1 << 32 | CREATE, 0xFEC0_0000),
        (1 << 32 | CREATE, (1 << 64) - PAGE),
    ],
)
def test_cpu_that_can_not_start_is_refused(tmp_path: Path, info1: int, info2: int) -> None:
    """There is no such CPU, request, level, or page with a state."""
    with snp_started(tmp_path, extra=TWO) as guest:
        refused = (MALFORMED, Reason.INVALID_INPUT)
        assert ready(guest).call(Event.AP_CREATION, info1, info2) == refused
        wait_until_halted(guest, 1)


def test_page_keeps_a_state_until_it_is_shared(tmp_path: Path) -> None:
    """Or until the guest takes that back; the features have to be given, too."""
    with snp_started(tmp_path, extra=TWO) as guest:
        page = ready(guest)
        refused = (MALFORMED, Reason.INVALID_INPUT)
        asked = (Event.AP_CREATION, 1 << 32 | CREATE, STATE)
        del page.fields[ghcb.RAX]
        assert page.call(*asked) == (MALFORMED, Reason.MISSING_INPUT)
        page.fields[ghcb.RAX] = 3
        assert page.call(*asked) == refused
        page.fields[ghcb.RAX] = SNP_ACTIVE
        assert guest.snp.rmpadjust(STATE, VMPL1) == Result.SUCCESS
        assert page.call(*asked) == refused
        assert guest.snp.rmpadjust(STATE, VMPL1 | VMSA) == Result.SUCCESS
        guest.snp.set_page(STATE, State.SHARED)
        guest.snp.set_page(STATE, State.PRIVATE)
        assert guest.snp.pvalidate(STATE) == (Result.SUCCESS, False)
        assert page.call(*asked) == refused
        assert guest.snp.rmpadjust(STATE, VMPL1 | VMSA) == Result.SUCCESS
        assert page.call(*asked) == (DONE, 0)
        wait_until_running(guest)


def test_reset_forgets_states(tmp_path: Path) -> None:
    """And CPUs that were started wait again."""
    with snp_started(tmp_path, extra=TWO) as guest:
        page = ready(guest)
        assert page.call(Event.AP_CREATION, 1 << 32 | CREATE, STATE) == (DONE, 0)
        wait_until_running(guest)
        again = guest.reset()
        wait_until_halted(again, 1)
        page = again.ghcb()
        page.fields[ghcb.RAX] = SNP_ACTIVE
        refused = (MALFORMED, Reason.INVALID_INPUT)
        assert page.call(Event.AP_CREATION, 1 << 32 | CREATE, STATE) == refused
        assert again.snp.call(Info.HV_FEATURES_REQUEST) == 3 << 12 | 0x081
