"""A driver of an IOMMU writes registers as none should: QEMU goes on."""

from collections.abc import Callable

import pytest

from qap.iommu import amd, vtd
from qap.machine.guest_memory import MIB
from qap.machine.qtest import Qtest
from qap.verify.kit.checks import assert_lives, reset_machine
from qap.verify.kit.lab import Lab

HANG_S = 5.0
AMD_BASE = 0xFED8_0000
# VT-d 11.4.9 and 11.4.10: 32-bit registers of an event, by the first of two that are neighbours.
FECTL_REG, IECTL_REG, IEADDR_REG = 0x38, 0xA0, 0xA8
ONE_COMMAND = 16
Offence = Callable[[Qtest], None]


@pytest.mark.parametrize("register", [FECTL_REG, IECTL_REG, IEADDR_REG])
def test_vtd_takes_two_registers_in_one_write(lab: Lab, register: int) -> None:
    """They have what they have after a write of each."""
    machine = lab.machine(viommu="intel-iommu", qtest=True)
    at = vtd.BASE + register
    value = 0x8765_4321_CAFE_F00C

    def halves() -> list[int]:
        return [machine.qtest.readl(at), machine.qtest.readl(at + 4)]

    before = halves()
    machine.qtest.writel(at, value & 0xFFFF_FFFF)
    machine.qtest.writel(at + 4, value >> 32)
    expected = halves()
    assert expected != before
    reset_machine(machine)
    assert halves() == before
    machine.qtest.writeq(at, value)
    assert halves() == expected


def run_then_tail(qtest: Qtest) -> None:
    qtest.writeq(AMD_BASE + amd.CONTROL, amd.CONTROL_ENABLE)
    qtest.writeq(AMD_BASE + amd.COMMAND_BUFFER_TAIL, ONE_COMMAND)


def tail_then_run(qtest: Qtest) -> None:
    qtest.writeq(AMD_BASE + amd.COMMAND_BUFFER_TAIL, ONE_COMMAND)
    qtest.writeq(AMD_BASE + amd.CONTROL, amd.CONTROL_ENABLE)


@pytest.mark.parametrize("offence", [run_then_tail, tail_then_run])
@pytest.mark.parametrize("reset", [False, True])
def test_amd_runs_no_command_without_a_buffer(lab: Lab, offence: Offence, reset: bool) -> None:
    """A driver that forgets where the commands are, also after another that did not."""
    machine = lab.machine(viommu="amd-iommu", qtest=True)
    qtest = machine.qtest
    qtest.timeout = HANG_S
    if reset:
        qtest.writeq(AMD_BASE + amd.COMMAND_BUFFER_BASE, 16 * MIB | amd.LENGTH_PAGE)
        reset_machine(machine)
    offence(qtest)
    assert_lives(machine)
    # It works as soon as it has one.
    qtest.writeq(AMD_BASE + amd.COMMAND_BUFFER_BASE, 16 * MIB | amd.LENGTH_PAGE)
    qtest.writeq(AMD_BASE + amd.COMMAND_BUFFER_TAIL, ONE_COMMAND)
    assert qtest.readq(AMD_BASE + amd.COMMAND_BUFFER_HEAD) == ONE_COMMAND
