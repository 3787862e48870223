"""AMD's IOMMU tells its driver what it refused, in the event log ("AMD" as in qap.iommu.amd)."""

import struct
from dataclasses import dataclass, field

import pytest

from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.iommu import amd
from qap.machine.guest_memory import MIB, PAGE
from qap.machine.machine import Machine
from qap.verify.kit.lab import Lab

BASE = 0xFED8_0000
COMMANDS, LOG, MESSAGE = 16 * MIB, 17 * MIB, 18 * MIB
ENTRY = struct.Struct("<QQ")
ROOM = PAGE // ENTRY.size
# AMD 2.4: no command has this code.
ILLEGAL = 0xF << amd.CODE
ENABLE, ASKED = amd.CONTROL_ENABLE, amd.CONTROL_EVENT_INT_EN
OVERFLOW, INTERRUPT = amd.STATUS_EVENT_OVERFLOW, amd.STATUS_EVENT_LOG_INT
RUN = amd.STATUS_EVENT_LOG_RUN

# PCI 6.8.1: Message Control and the registers after it, for a function with 64-bit addresses.
CAPABILITY_MSI = 0x05
MSI_CONTROL, MSI_ADDRESS, MSI_DATA, MSI_ENABLE = 2, 4, 12, 1
WORD = 0xCAFE


@dataclass
class EventLog:
    """An IOMMU that is on, with a command buffer and an event log of a page each.

    Attributes:
        commands: how many it has had.
        read: how many events were read.
    """

    machine: Machine
    log: int = LOG
    commands: int = 0
    read: int = 0
    function: Function = field(init=False)

    def __post_init__(self) -> None:
        self.function = PciBus(self.machine.qtest).find(amd.VENDOR_ID)
        self.set(amd.COMMAND_BUFFER_BASE, COMMANDS | amd.LENGTH_PAGE)
        self.set(amd.EVENT_LOG_BASE, self.log | amd.LENGTH_PAGE)
        self.set(amd.CONTROL, ENABLE)

    def set(self, register: int, value: int) -> None:
        self.machine.qtest.writeq(BASE + register, value)

    def get(self, register: int) -> int:
        return self.machine.qtest.readq(BASE + register)

    @property
    def status(self) -> int:
        return self.get(amd.STATUS) & (OVERFLOW | INTERRUPT | RUN)

    def offend(self, times: int = 1) -> list[int]:
        """Give it illegal commands; returns where they were."""
        places = []
        for _ in range(times):
            places.append(COMMANDS + self.commands % ROOM * ENTRY.size)
            self.machine.qtest.write(places[-1], ENTRY.pack(ILLEGAL, 0))
            self.commands += 1
            self.set(amd.COMMAND_BUFFER_TAIL, self.commands % ROOM * ENTRY.size)
        return places

    def events(self) -> list[int]:
        """Read the log as its driver does; returns the commands that the events are about."""
        tail = self.get(amd.EVENT_LOG_TAIL)
        seen = []
        while self.read % ROOM * ENTRY.size != tail:
            at = LOG + self.read % ROOM * ENTRY.size
            low, high = ENTRY.unpack(self.machine.qtest.read(at, ENTRY.size))
            assert low >> amd.CODE == amd.ILLEGAL_COMMAND_ERROR
            seen.append(high)
            self.read += 1
        self.set(amd.EVENT_LOG_HEAD, tail)
        return seen

    def interrupt(self, address: int = MESSAGE) -> None:
        """Let its interrupt be a word in memory, or elsewhere."""
        at = self.function.capability(CAPABILITY_MSI).offset
        self.function.config_write(at + MSI_ADDRESS, 4, address)
        self.function.config_write(at + MSI_DATA, 2, WORD)
        self.function.config_write(at + MSI_CONTROL, 2, MSI_ENABLE)

    def interrupted(self) -> bool:
        """Whether there was an interrupt since the last call."""
        word = self.machine.qtest.readl(MESSAGE)
        self.machine.qtest.writel(MESSAGE, 0)
        return word == WORD


@pytest.fixture
def machine(lab: Lab) -> Machine:
    return lab.machine({"driver": "amd-iommu"}, qtest=True)


def test_events_are_where_the_tail_says(machine: Machine) -> None:
    """AMD 2.5: the IOMMU writes at the tail and moves it on, round the end of the log."""
    log = EventLog(machine)
    assert (log.status, log.events()) == (RUN, [])
    for _ in range(4):
        wanted = log.offend(100)
        assert log.events() == wanted


def test_full_log_overflows_and_keeps_what_it_has(machine: Machine) -> None:
    """AMD 2.5.2 and 3.4.11, EventOverflow: the event is lost, and no more is logged."""
    log = EventLog(machine)
    log.events()
    wanted = log.offend(ROOM - 1)
    assert log.status == RUN | INTERRUPT
    log.offend()
    assert log.status == OVERFLOW | INTERRUPT
    log.offend(2)
    assert log.events() == wanted
    log.offend()
    assert log.events() == []


def test_log_goes_on_after_an_overflow(machine: Machine) -> None:
    """AMD 3.4.11: EventOverflow is cleared, and EventLogEn written."""
    log = EventLog(machine)
    log.offend(ROOM)
    assert len(log.events()) == ROOM - 1
    log.set(amd.STATUS, OVERFLOW | INTERRUPT)
    assert log.status == 0
    log.set(amd.CONTROL, ENABLE)
    assert log.status == RUN
    wanted = log.offend(3)
    assert log.events() == wanted


def test_enabled_log_does_not_run_while_it_overflows(machine: Machine) -> None:
    log = EventLog(machine)
    log.offend(ROOM)
    log.events()
    log.set(amd.CONTROL, ENABLE)
    assert not log.status & RUN
    log.offend()
    assert log.events() == []


@pytest.mark.parametrize("size", [2, 4, 8])
def test_status_is_cleared_by_writing_1(machine: Machine, size: int) -> None:
    """AMD 3.4.11: RW1C. What is written as 0 stays, and what is read-only, too."""
    log = EventLog(machine)
    write = {2: machine.qtest.writew, 4: machine.qtest.writel, 8: machine.qtest.writeq}[size]
    log.offend(ROOM)
    write(BASE + amd.STATUS, 0)
    assert log.status == OVERFLOW | INTERRUPT
    write(BASE + amd.STATUS, INTERRUPT)
    assert log.status == OVERFLOW
    write(BASE + amd.STATUS, OVERFLOW | RUN)
    assert log.status == 0


def test_events_interrupt_only_if_asked_to(machine: Machine) -> None:
    """AMD 3.4.5, EventIntEn, for an event as for an overflow."""
    log = EventLog(machine)
    log.interrupt()
    log.offend()
    assert not log.interrupted()
    log.set(amd.CONTROL, ENABLE | ASKED)
    log.offend()
    assert log.interrupted()
    log.offend(ROOM - 3)
    assert log.interrupted() and log.status & RUN
    log.offend()
    assert log.interrupted() and log.status & OVERFLOW
    log.offend()
    assert not log.interrupted()


def test_interrupt_does_not_have_it_go_on(machine: Machine) -> None:
    """The message is a write to its own register, which would have it find the same command."""
    log = EventLog(machine)
    log.interrupt(BASE + amd.COMMAND_BUFFER_TAIL)
    log.set(amd.CONTROL, ENABLE | ASKED)
    wanted = log.offend(2)
    assert log.events() == wanted


def test_disabled_log_takes_nothing(machine: Machine) -> None:
    log = EventLog(machine)
    log.set(amd.CONTROL, ENABLE & ~amd.CONTROL_EVENT_LOG_EN)
    log.offend()
    assert (log.status, log.events()) == (0, [])


def test_address_of_the_log_rewinds_it(machine: Machine) -> None:
    log = EventLog(machine)
    log.offend(3)
    log.set(amd.EVENT_LOG_BASE, LOG | amd.LENGTH_PAGE)
    assert (log.get(amd.EVENT_LOG_HEAD), log.get(amd.EVENT_LOG_TAIL)) == (0, 0)
    wanted = log.offend(2)
    assert log.events() == wanted


def test_reset_forgets_the_log(machine: Machine) -> None:
    log = EventLog(machine)
    log.offend(3)
    machine.qmp.execute("system_reset")
    assert (log.status, log.get(amd.EVENT_LOG_TAIL)) == (0, 0)
    again = EventLog(machine)
    wanted = again.offend(2)
    assert again.events() == wanted


def test_log_is_only_in_memory(machine: Machine) -> None:
    """Here it would be at the IOMMU's own registers, the first of which is a table's address."""
    log = EventLog(machine, log=BASE)
    before = log.get(amd.DEVICE_TABLE_BASE)
    log.offend(3)
    assert log.get(amd.DEVICE_TABLE_BASE) == before
