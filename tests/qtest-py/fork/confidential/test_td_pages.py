"""Which memory of a trust domain is shared: MapGPA and page acceptance, and what devices get."""

import os
from pathlib import Path

import pytest

from qap.hw.pci_bus import PciBus
from qap.hw.trust_domain import SHARED, Status, TdcallLeaf, VmcallStatus
from qap.hw.x86_page_tables import PAGE
from qap.machine.guest_memory import MIB, GuestMemory
from qap.scenario.confidential import VIOLATION, Shared
from qap.verify.kit.sev_guest import DATA
from qap.verify.kit.simulated_guest import MEMORY
from qap.verify.kit.td_guest import td_started
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.rng import Rng

RINGS = 32 * MIB  # where the driver's memory is
ROOM = 8 * MIB
NEVER_S = 0.3
FIRMWARE = 0xF0000  # a ROM


def test_page_is_what_the_guest_asked_for_last(tmp_path: Path) -> None:
    """To the page, whatever was mapped or touched; the count is exact."""
    with td_started(tmp_path) as guest:
        assert guest.td.map_gpa(DATA | SHARED, 3 * PAGE) == VmcallStatus.SUCCESS
        assert [guest.shared(DATA + page * PAGE) for page in range(-1, 4)] == [
            *(False, True, True, True, False)
        ]
        assert guest.td.map_gpa(DATA + PAGE, PAGE) == VmcallStatus.SUCCESS
        assert [guest.shared(DATA + page * PAGE) for page in range(3)] == [True, False, True]
        assert Shared.of(guest.machine).shared == 2


def test_all_of_memory_can_be_shared(tmp_path: Path) -> None:
    """A range may go on where no RAM is, such as MMIO."""
    with td_started(tmp_path) as guest:
        assert guest.td.map_gpa(SHARED, SHARED) == VmcallStatus.SUCCESS
        assert Shared.of(guest.machine).private == 0
        assert guest.td.map_gpa(0, SHARED) == VmcallStatus.SUCCESS
        assert Shared.of(guest.machine).shared == 0


@pytest.mark.parametrize(
    ("address", "size", "status"),
    [
        (DATA | SHARED, 0, VmcallStatus.INVALID_OPERAND),
        (DATA | SHARED, SHARED, VmcallStatus.INVALID_OPERAND),
        (DATA | SHARED, (1 << 64) - PAGE, VmcallStatus.INVALID_OPERAND),
        (DATA, SHARED, VmcallStatus.INVALID_OPERAND),
        (DATA | 1 << 48, PAGE, VmcallStatus.INVALID_OPERAND),
        ((1 << 64) - PAGE, PAGE, VmcallStatus.INVALID_OPERAND),
        (DATA + 1 | SHARED, PAGE, VmcallStatus.ALIGN_ERROR),
        (DATA | SHARED, PAGE - 1, VmcallStatus.ALIGN_ERROR),
    ],
)
def test_range_that_can_not_be_is_refused(
    tmp_path: Path, address: int, size: int, status: VmcallStatus
) -> None:
    with td_started(tmp_path) as guest:
        assert guest.td.map_gpa(address, size) == status
        assert Shared.of(guest.machine).shared == 0


def test_page_that_became_private_is_accepted_once_and_zeroed(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        data = os.urandom(PAGE)
        guest.machine.qtest.write(DATA, data)
        assert guest.td.accept(DATA) == Status.PAGE_ALREADY_ACCEPTED
        guest.td.map_gpa(DATA | SHARED, PAGE)
        guest.td.map_gpa(DATA, PAGE)
        assert guest.machine.qtest.read(DATA, PAGE) == data
        assert guest.td.accept(DATA) == Status.SUCCESS
        assert guest.machine.qtest.read(DATA, PAGE) == bytes(PAGE)
        assert guest.td.accept(DATA) == Status.PAGE_ALREADY_ACCEPTED
        assert not guest.shared(DATA)


def test_accepting_a_shared_page_makes_it_private(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        guest.td.map_gpa(DATA | SHARED, PAGE)
        assert guest.td.accept(DATA) == Status.SUCCESS
        assert not guest.shared(DATA)


def test_large_page_is_accepted_as_a_whole(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        large = 2 * MIB
        assert guest.td.accept(DATA, 1) == Status.PAGE_ALREADY_ACCEPTED | 1
        guest.td.map_gpa(DATA + PAGE | SHARED, PAGE)
        assert guest.td.accept(DATA, 1) == Status.PAGE_SIZE_MISMATCH_2M
        guest.td.map_gpa(DATA | SHARED, large)
        guest.td.map_gpa(DATA, large)
        guest.machine.qtest.write(DATA + large - 4, b"last")
        assert guest.td.accept(DATA, 1) == Status.SUCCESS
        assert guest.machine.qtest.read(DATA + large - 4, 4) == bytes(4)
        assert guest.td.accept(DATA, 1) == Status.PAGE_ALREADY_ACCEPTED | 1
        # There is a ROM in it.
        guest.td.map_gpa(SHARED, large)
        assert guest.td.accept(0, 1) == Status.PAGE_SIZE_MISMATCH_2M


@pytest.mark.parametrize(
    "operand",
    [
        DATA | 2,
        DATA | 7,
        DATA | 8,
        DATA | 1 << 11,
        DATA + PAGE | 1,
        DATA | 1 << 52,
        DATA | SHARED,
        DATA | 1 << 48,
        MEMORY * MIB,
        FIRMWARE,
        (1 << 64) - PAGE,
    ],
)
def test_what_is_no_private_page_can_not_be_accepted(tmp_path: Path, operand: int) -> None:
    with td_started(tmp_path) as guest:
        left = guest.td.tdcall(TdcallLeaf.MEM_PAGE_ACCEPT, {"rcx": operand})
        assert left["rax"] == Status.OPERAND_INVALID_RCX


def test_reset_forgets_which_pages_were_accepted(tmp_path: Path) -> None:
    with td_started(tmp_path) as guest:
        guest.td.map_gpa(DATA | SHARED, PAGE)
        assert guest.reset().td.accept(DATA) == Status.PAGE_ALREADY_ACCEPTED


@pytest.mark.parametrize("iommu_platform", [True, False])
def test_device_gets_what_the_guest_shares_alone(tmp_path: Path, iommu_platform: bool) -> None:
    """Nothing while the rings are private; everything once the guest has asked to share them."""
    rng = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": iommu_platform}
    with td_started(tmp_path, devices=[rng]) as guest:
        vm = guest.machine
        function = PciBus(vm.qtest).find(VENDOR_ID)
        driver = Driver(PciModern(function), GuestMemory(vm.qtest, RINGS, ROOM))
        guest.td.tdcall(TdcallLeaf.VP_INFO)
        assert driver.negotiate()
        with pytest.raises(TimeoutError):
            Rng(driver).read(64, timeout=NEVER_S)
        event = vm.qmp.wait_event(VIOLATION, lambda data: True, 10)
        assert event["device"] == "dut"
        assert RINGS <= event["address"] < RINGS + ROOM
        seen = vm.qmp.execute("x-query-confidential-sim")["violations"]

        # No CPU has touched it.
        assert guest.td.map_gpa(RINGS | SHARED, ROOM) == VmcallStatus.SUCCESS
        assert driver.negotiate()
        assert len(Rng(driver).read(64)) == 64
        assert vm.qmp.execute("x-query-confidential-sim")["violations"] == seen

        guest.td.map_gpa(RINGS, ROOM)
        assert driver.negotiate()
        with pytest.raises(TimeoutError):
            Rng(driver).read(64, timeout=NEVER_S)
