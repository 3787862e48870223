"""Which memory of an SEV-SNP guest is shared: page states, PVALIDATE, RMPADJUST, and devices."""

import os
from pathlib import Path

import pytest

from qap.hw.pci_bus import PciBus
from qap.hw.snp_cpu import PVALIDATE, RMPADJUST, VMPL1, VMSA, Info, Result, State
from qap.hw.x86_cpu import GENERAL_PROTECTION, PAGE_FAULT, CpuFault, Mode
from qap.hw.x86_page_tables import PAGE, Shape
from qap.machine.guest_memory import MIB, GuestMemory
from qap.scenario.confidential import VIOLATION, Shared
from qap.verify.kit.sev_guest import DATA, FREE
from qap.verify.kit.simulated_guest import MEMORY
from qap.verify.kit.snp_guest import snp_started
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.rng import Rng

RINGS = 32 * MIB  # where the driver's memory is
ROOM = MIB
NEVER_S = 0.3
INVALID_OPCODE = 6
USER = 1 << 2
SCREEN = 0xB8000  # VGA's text
BEYOND = MEMORY * MIB
INSTRUCTIONS = [PVALIDATE, RMPADJUST]
OF_SF_ZF_AF_PF = 1 << 11 | 1 << 7 | 1 << 6 | 1 << 4 | 1 << 2


def test_page_is_what_the_guest_asked_for_last(tmp_path: Path) -> None:
    """The count is exact, and what is in the page stays."""
    with snp_started(tmp_path) as guest:
        data = os.urandom(PAGE)
        guest.machine.qtest.write(DATA, data)
        for page in range(3):
            assert guest.snp.set_page(DATA + page * PAGE, State.SHARED) == 0
        assert [guest.shared(DATA + page * PAGE) for page in range(-1, 4)] == [
            *(False, True, True, True, False)
        ]
        assert guest.snp.set_page(DATA + PAGE, State.PRIVATE) == 0
        assert [guest.shared(DATA + page * PAGE) for page in range(3)] == [True, False, True]
        assert Shared.of(guest.machine).shared == 2
        assert guest.machine.qtest.read(DATA, PAGE) == data


def test_page_that_was_assigned_again_is_validated_once(tmp_path: Path) -> None:
    """CF says so; all of memory is validated when the guest starts."""
    with snp_started(tmp_path) as guest:
        snp = guest.snp
        assert snp.pvalidate(DATA) == (Result.SUCCESS, True)
        assert snp.pvalidate(DATA, 0) == (Result.SUCCESS, False)
        assert snp.pvalidate(DATA, 0) == (Result.SUCCESS, True)
        snp.set_page(DATA, State.SHARED)
        snp.set_page(DATA, State.PRIVATE)
        assert snp.pvalidate(DATA) == (Result.SUCCESS, False)
        assert snp.pvalidate(DATA) == (Result.SUCCESS, True)
        snp.set_page(DATA, State.SHARED)
        assert snp.pvalidate(DATA) == (Result.SUCCESS, False)
        assert not guest.shared(DATA)


def test_vgas_screen_can_be_shared(tmp_path: Path) -> None:
    """No RAM is seen there, but Linux asks for it."""
    vga = {"driver": "VGA", "romfile": ""}
    with snp_started(tmp_path, devices=[vga]) as guest:
        assert guest.snp.pvalidate(SCREEN, 0) == (Result.SUCCESS, False)
        assert guest.snp.set_page(SCREEN, State.SHARED) == 0


@pytest.mark.parametrize(
    ("gpa", "size", "result"),
    [
        (DATA, 1, Result.FAIL_SIZEMISMATCH),
        (DATA, 2, Result.FAIL_INPUT),
        (DATA, 0xFFFF_FFFF, Result.FAIL_INPUT),
        (BEYOND, 0, Result.FAIL_INPUT),
        (0xFEC0_0000, 0, Result.FAIL_INPUT),
    ],
)
def test_operand_that_can_not_be_validated_is_refused(
    tmp_path: Path, gpa: int, size: int, result: Result
) -> None:
    with snp_started(tmp_path) as guest:
        guest.snp.pvalidate(DATA, 0)
        assert guest.snp.pvalidate(gpa, size=size) == (result, False)
        assert guest.snp.pvalidate(DATA) == (Result.SUCCESS, False)


@pytest.mark.parametrize(
    ("gpa", "attributes", "size", "result"),
    [
        (DATA, VMPL1, 0, Result.SUCCESS),
        (DATA, VMPL1 | VMSA, 0, Result.SUCCESS),
        (DATA, 3, 0, Result.SUCCESS),
        (DATA, 0, 0, Result.FAIL_PERMISSION),
        (DATA, VMSA, 0, Result.FAIL_PERMISSION),
        (DATA, 4, 0, Result.FAIL_INPUT),
        (DATA, 0xFF, 0, Result.FAIL_INPUT),
        (DATA, VMPL1, 1, Result.FAIL_SIZEMISMATCH),
        (DATA, VMPL1, 2, Result.FAIL_INPUT),
        (DATA, VMPL1, 1 << 32, Result.FAIL_INPUT),
        (BEYOND, VMPL1, 0, Result.FAIL_INPUT),
    ],
)
def test_operand_that_can_not_be_adjusted_is_refused(
    tmp_path: Path, gpa: int, attributes: int, size: int, result: Result
) -> None:
    with snp_started(tmp_path) as guest:
        assert guest.snp.rmpadjust(gpa, attributes, size) == result
        guest.snp.set_page(DATA, State.SHARED)
        assert guest.snp.rmpadjust(DATA) == Result.FAIL_INPUT


@pytest.mark.parametrize(
    ("instruction", "rcx", "rdx", "result"),
    [
        (PVALIDATE, 0, 1, Result.SUCCESS),
        (PVALIDATE, 2, 1, Result.FAIL_INPUT),
        (PVALIDATE, 1, 1, Result.FAIL_SIZEMISMATCH),
        (RMPADJUST, 0, VMPL1, Result.SUCCESS),
        (RMPADJUST, 2, VMPL1, Result.FAIL_INPUT),
        (RMPADJUST, 0, 0, Result.FAIL_PERMISSION),
        (RMPADJUST, 1, VMPL1, Result.FAIL_SIZEMISMATCH),
    ],
)
def test_flags_tell_of_the_result(
    tmp_path: Path, instruction: bytes, rcx: int, rdx: int, result: Result
) -> None:
    """OF, ZF, AF, PF and SF are those of its comparison with 0."""
    with snp_started(tmp_path) as guest:
        eax, flags, compared = guest.snp.flags(instruction, DATA, rcx, rdx)
        assert eax == result
        assert (flags ^ compared) & OF_SF_ZF_AF_PF == 0


@pytest.mark.parametrize("code", INSTRUCTIONS)
def test_address_that_is_not_mapped_is_a_page_fault(tmp_path: Path, code: bytes) -> None:
    with snp_started(tmp_path) as guest:
        with pytest.raises(CpuFault) as raised:
            guest.bare.cpu.run(code, guest.bare.home, {"rax": FREE[Mode.LONG], "rdx": 1})
        assert raised.value.vector == PAGE_FAULT
        assert raised.value.address == FREE[Mode.LONG]


@pytest.mark.parametrize("code", INSTRUCTIONS)
def test_user_mode_can_change_no_page(tmp_path: Path, code: bytes) -> None:
    with snp_started(tmp_path) as guest:
        at = FREE[Mode.LONG]
        guest.machine.qtest.write(DATA, code)
        # The entries of all levels have the user bit.
        cr3 = guest.bare.tables.map(Shape(at, DATA), [USER] * Mode.LONG)
        with pytest.raises(CpuFault) as raised:
            guest.bare.cpu.run_as_user(at, cr3)
        assert (raised.value.vector, raised.value.error) == (GENERAL_PROTECTION, 0)


@pytest.mark.parametrize("code", INSTRUCTIONS)
def test_code_of_32_bits_can_change_no_page(tmp_path: Path, code: bytes) -> None:
    with snp_started(tmp_path, mode=Mode.PAE) as guest:
        with pytest.raises(CpuFault) as raised:
            guest.bare.cpu.run(code, guest.bare.home)
        assert raised.value.vector == INVALID_OPCODE


@pytest.mark.parametrize(
    ("gpa", "state"),
    [
        (DATA, 0),
        (DATA, 3),
        (DATA, 0xF),
        (DATA, State.SHARED | 1 << 4),
        (DATA, State.SHARED | 1 << 11),
        (BEYOND, State.SHARED),
        (0xFEC0_0000, State.SHARED),
        ((1 << 52) - PAGE, State.PRIVATE),
    ],
)
def test_page_state_that_can_not_be_is_refused(tmp_path: Path, gpa: int, state: int) -> None:
    with snp_started(tmp_path) as guest:
        assert guest.snp.set_page(gpa, state) != 0
        assert Shared.of(guest.machine).shared == 0


def test_reset_forgets_which_pages_were_validated(tmp_path: Path) -> None:
    with snp_started(tmp_path) as guest:
        guest.snp.set_page(DATA, State.SHARED)
        again = guest.reset()
        assert again.snp.pvalidate(DATA) == (Result.SUCCESS, True)
        assert not again.shared(DATA)


@pytest.mark.parametrize("iommu_platform", [True, False])
def test_device_gets_what_the_guest_shares_alone(tmp_path: Path, iommu_platform: bool) -> None:
    """Nothing while the rings are private; everything once the guest has asked to share them."""
    rng = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": iommu_platform}
    with snp_started(tmp_path, devices=[rng]) as guest:
        vm = guest.machine
        function = PciBus(vm.qtest).find(VENDOR_ID)
        driver = Driver(PciModern(function), GuestMemory(vm.qtest, RINGS, ROOM))
        guest.snp.call(Info.SEV_INFO_REQUEST)
        assert driver.negotiate()
        with pytest.raises(TimeoutError):
            Rng(driver).read(64, timeout=NEVER_S)
        event = vm.qmp.wait_event(VIOLATION, lambda data: True, 10)
        assert event["device"] == "dut"
        assert RINGS <= event["address"] < RINGS + ROOM
        seen = vm.qmp.execute("x-query-confidential-sim")["violations"]

        # No CPU has touched it.
        for page in range(RINGS, RINGS + ROOM, PAGE):
            assert guest.snp.set_page(page, State.SHARED) == 0
        assert driver.negotiate()
        assert len(Rng(driver).read(64)) == 64
        assert vm.qmp.execute("x-query-confidential-sim")["violations"] == seen

        for page in range(RINGS, RINGS + ROOM, PAGE):
            assert guest.snp.set_page(page, State.PRIVATE) == 0
        assert driver.negotiate()
        with pytest.raises(TimeoutError):
            Rng(driver).read(64, timeout=NEVER_S)
