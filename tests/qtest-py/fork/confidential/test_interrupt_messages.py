"""An interrupt that is a write to memory reaches shared memory alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE
from qap.machine.machine import Machine
from qap.scenario.confidential import VIOLATION
from qap.verify.kit.sev_guest import started

SHARED, PRIVATE = 48 * MIB, 48 * MIB + PAGE
BEFORE, MESSAGE = 0x1122_3344, 0x5566
ANSWER_S = 20.0

# PCI 6.8.1: message address, its upper half, and data of a 64-bit capability; enable.
CAPABILITY_MSI = 0x05
MSI_ENABLE = 1 << 0
# docs/specs/edu.rst of QEMU's source.
EDU = 0x1234, 0x11E8
EDU_RAISE = 0x60
# IA-PC HPET 1.0a, 2.3: registers, and bits of a timer's configuration.
HPET = 0xFED0_0000
HPET_CONFIGURATION, HPET_COUNTER = 0x10, 0xF0
TIMER_CONFIGURATION, TIMER_COMPARATOR, TIMER_MESSAGE = 0x100, 0x108, 0x110
TIMER_INTERRUPT, TIMER_MESSAGES = 1 << 2, 1 << 14

Raise = Callable[[Machine, int], None]


def edu_interrupts(machine: Machine, address: int) -> None:
    """Let QEMU's teaching device send its message to an address."""
    function = PciBus(machine.qtest).find(*EDU)
    registers = function.map_bars()[0].address
    at = function.capability(CAPABILITY_MSI).offset
    function.config_write(at + 4, 4, address)
    function.config_write(at + 8, 4, 0)
    function.config_write(at + 12, 2, MESSAGE)
    function.config_write(at + 2, 2, MSI_ENABLE)
    machine.qtest.writel(registers + EDU_RAISE, 1)


def hpet_interrupts(machine: Machine, address: int) -> None:
    """Let a timer of the HPET expire that sends its message to an address."""
    qtest = machine.qtest
    qtest.writeq(HPET + HPET_CONFIGURATION, 0)
    qtest.writeq(HPET + HPET_COUNTER, 0)
    qtest.writeq(HPET + TIMER_MESSAGE, address << 32 | MESSAGE)
    qtest.writeq(HPET + TIMER_CONFIGURATION, TIMER_INTERRUPT | TIMER_MESSAGES)
    qtest.writeq(HPET + TIMER_COMPARATOR, 100_000)
    qtest.writeq(HPET + HPET_CONFIGURATION, 1)


@pytest.mark.parametrize(
    ("interrupts", "name"),
    [(edu_interrupts, "edu"), (hpet_interrupts, "hpet")],
    ids=["msi", "hpet"],
)
def test_message_to_private_memory_is_dropped(tmp_path: Path, interrupts: Raise, name: str) -> None:
    devices: list[Device] = [{"driver": "edu", "id": "dut"}]
    options = ["-global", "hpet.msi=on"]
    with started(tmp_path, Mode.LONG, devices=devices, options=options) as guest:
        vm = guest.machine
        guest.protect()
        guest.share(SHARED)
        for page in (SHARED, PRIVATE):
            vm.qtest.writel(page, BEFORE)
        interrupts(vm, SHARED)
        poll_until(
            lambda: vm.qtest.readl(SHARED) == MESSAGE or None, ANSWER_S, lambda: "the message"
        )
        interrupts(vm, PRIVATE)
        seen = vm.qmp.wait_event(VIOLATION, lambda data: True, ANSWER_S)
        path = seen["qom-path"]
        assert vm.qmp.execute("qom-get", path=path, property="type") == name
        assert (seen["address"], seen["direction"]) == (PRIVATE, "write")
        assert vm.qtest.readl(PRIVATE) == BEFORE
