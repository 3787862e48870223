"""An s390x CPU and the channel subsystem, driven from Python."""

import os
import signal
import socket
import struct
from collections.abc import Callable

import pytest

from qap.host.wait import poll_until
from qap.hw.channel_program import (
    BASIC_SENSE,
    NO_OPERATION,
    SENSE_ID,
    SENSE_SIZE,
    Ccw,
    ChannelError,
    DeviceStatus,
    Flag,
    ProgramFailed,
    Sense,
    SubchannelStatus,
)
from qap.hw.s390x_assembler import PSW_WAIT
from qap.hw.s390x_cpu import Cpu, CpuLost, Instruction, ProgramCheck
from qap.hw.subchannel import ChannelSubsystem, Subchannel
from qap.machine.device import Device
from qap.machine.machine import Machine, QemuDied
from qap.machine.qtest import Qtest
from qap.verify.kit.lab import Lab

Starter = Callable[..., tuple[Machine, Cpu]]
RNG: Device = {"driver": "virtio-rng-ccw", "id": "dut", "devno": "fe.0.0005"}
NET: Device = {"driver": "virtio-net-ccw", "devno": "fe.0.abcd"}
RNG_TYPE, NET_TYPE = 4, 1
UNKNOWN_COMMAND = 0x99

# PoP, appendix B: instructions by their codes.
ADD = bytes.fromhex("b9080001")  # AGR r0,r1
STORE = bytes.fromhex("e30020000024")  # STG r0,0(r2)
LOAD = bytes.fromhex("e30020000004")  # LG r0,0(r2)
STORE_SUBCHANNEL = bytes.fromhex("b2342000")  # STSCH 0(r2)
INVALID = bytes.fromhex("0000")


@pytest.fixture
def start(lab: Lab) -> Starter:
    """An s390-ccw-virtio with these devices, and its CPU."""

    def started(*devices: Device, timeout: float = 10.0) -> tuple[Machine, Cpu]:
        machine = lab.s390x(*devices)
        return machine, Cpu(machine.qtest, machine.serial, timeout)

    return started


@pytest.fixture
def subchannel(start: Starter) -> Subchannel:
    """The enabled subchannel of a machine's only device."""
    (subchannel,) = ChannelSubsystem(start(RNG)[1]).scan()
    subchannel.enable()
    return subchannel


@pytest.mark.parametrize(
    ("addends", "total", "condition"),
    [((5, -5), 0, 0), ((2, -3), -1, 1), ((2, 3), 5, 2), ((1 << 62, 1 << 62), -(1 << 63), 3)],
)
def test_instruction_leaves_registers_and_condition(
    start: Starter, addends: tuple[int, int], total: int, condition: int
) -> None:
    """ADD of 64 bits: zero, negative, positive and overflow (PoP chapter 7)."""
    registers = {index: value % (1 << 64) for index, value in enumerate(addends)}
    (added,), _ = start()[1].run([Instruction(ADD, {**registers, 7: 99})])
    assert added.registers[0] == total % (1 << 64)
    assert added.registers[1:] == (registers[1], 0, 0, 0, 0, 0, 99)
    assert added.condition == condition


def test_batch_is_executed_in_order(start: Starter) -> None:
    """Its data are written to memory before, and read back after it."""
    _, cpu = start()
    word = 0x0123_4567_89AB_CDEF
    batch = [
        Instruction(LOAD, {2: Cpu.DATA}),
        Instruction(STORE, {0: word, 2: Cpu.DATA}),
        Instruction(LOAD, {2: Cpu.DATA}),
    ]
    results, data = cpu.run(batch, struct.pack(">Q", 42) + b"abc")
    assert [result.registers[0] for result in results] == [42, word, word]
    assert data == struct.pack(">Q", word) + b"abc"


@pytest.mark.parametrize(
    ("instruction", "interruption", "name"),
    [
        (Instruction(INVALID), 0x01, "operation"),
        (Instruction(STORE_SUBCHANNEL, {1: 1 << 16, 2: Cpu.DATA + 1}), 0x06, "specification"),
        (Instruction(STORE_SUBCHANNEL, {1: 0, 2: Cpu.DATA}), 0x15, "operand"),
        (Instruction(LOAD, {2: 1 << 40}), 0x05, "addressing"),
    ],
)
def test_program_check_is_reported(
    start: Starter, instruction: Instruction, interruption: int, name: str
) -> None:
    """It ends the batch, but the CPU goes on."""
    machine, cpu = start()
    outside = 1 << 20
    store = Instruction(STORE, {0: 1, 2: outside})
    with pytest.raises(ProgramCheck, match=f"instruction 1, .*, {name} exception") as checked:
        cpu.run([Instruction(ADD), instruction, store], bytes(64))
    assert checked.value.interruption == interruption
    assert machine.qtest.readq(outside) == 0
    cpu.run([store])
    assert machine.qtest.readq(outside) == 1


def test_long_batches_follow_each_other(start: Starter) -> None:
    """Twenty instructions with 300 bytes of data, fifty times."""
    _, cpu = start()
    for turn in range(50):
        batch = [Instruction(ADD, {0: turn, 1: index}) for index in range(20)]
        data = bytes([turn]) * 300
        results, after = cpu.run(batch, data)
        assert [result.registers[0] for result in results] == [turn + n for n in range(20)]
        assert after == data


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 2000), (26, 0)])
def test_batch_of_no_size_is_an_error(start: Starter, count: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"{count} instructions and their data are"):
        start()[1].run([Instruction(ADD)] * count, bytes(size))


def test_idle_cpu_waits(start: Starter) -> None:
    """In a wait state, so that it takes no CPU time of the host."""
    machine, cpu = start()
    cpu.run([Instruction(ADD)])

    def waits() -> bool | None:
        said = machine.qmp.hmp("info registers").partition("mask ")[2].split()[0]
        return True if int(said, 16) & PSW_WAIT else None

    assert poll_until(waits, 5, lambda: "a wait state")


def test_stopped_cpu_is_not_waited_for_long(start: Starter) -> None:
    """After that it can't be used: its late answer would be out of order."""
    machine, cpu = start(timeout=0.2)
    cpu.run([Instruction(ADD)])
    machine.qmp.execute("stop")
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for the CPU to execute 1 instruction"):
        cpu.run([Instruction(ADD)])
    machine.qmp.execute("cont")
    with pytest.raises(CpuLost, match="the CPU is out of step"):
        cpu.run([Instruction(ADD)])


def test_ended_qemu_is_noticed(start: Starter) -> None:
    machine, cpu = start()
    os.kill(machine.process.pid, signal.SIGABRT)
    for _ in range(2):
        with pytest.raises(QemuDied, match="QEMU ended with status -6"):
            cpu.run([Instruction(ADD)])


def test_closed_console_of_a_qemu_that_runs_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    console, peer = socket.socketpair()
    peer.close()
    gone = pytest.raises(CpuLost, match="QEMU closed the CPU's console")
    with Qtest(ours) as session, theirs, console, gone:
        Cpu(session, console).run([Instruction(ADD)])


def test_cpu_outlives_a_system_reset(start: Starter) -> None:
    machine, cpu = start(RNG)
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event("RESET", lambda _: True, 10)
    assert len(ChannelSubsystem(cpu).scan()) == 1


def test_scan_finds_each_device(start: Starter) -> None:
    subchannels = ChannelSubsystem(start(RNG, NET)[1]).scan()
    assert [str(subchannel) for subchannel in subchannels] == ["0.0.0005", "0.0.abcd"]
    for subchannel in subchannels:
        subchannel.enable()
    sensed = [subchannel.sense_id() for subchannel in subchannels]
    assert [(sense.cu_type, sense.cu_model) for sense in sensed] == [
        (0x3832, RNG_TYPE),
        (0x3832, NET_TYPE),
    ]
    assert [(sense.device_type, sense.device_model) for sense in sensed] == [(0, 0)] * 2


def test_scan_finds_many_devices(start: Starter) -> None:
    devices = [{"driver": "virtio-rng-ccw", "devno": f"fe.0.{at:04x}"} for at in range(40)]
    subchannels = ChannelSubsystem(start(*devices)[1]).scan()
    assert [subchannel.device_number for subchannel in subchannels] == list(range(40))


def test_empty_channel_subsystem_is_empty(start: Starter) -> None:
    css = ChannelSubsystem(start()[1])
    assert css.scan() == []
    with pytest.raises(ChannelError, match=r"there is no device 0\.0\.0005"):
        css.find(5)


def test_hot_plugged_device_comes_and_goes(start: Starter) -> None:
    machine, cpu = start(NET)
    css = ChannelSubsystem(cpu)
    machine.plug(RNG)
    subchannel = css.find(5)
    subchannel.enable()
    assert subchannel.sense_id().cu_model == RNG_TYPE
    machine.unplug("dut")
    with pytest.raises(ChannelError, match=r"0\.0\.0005 can't be started: it is not operational"):
        subchannel.sense_id()
    with pytest.raises(ChannelError, match="can't be modified: it is not operational"):
        subchannel.enable()
    assert [str(subchannel) for subchannel in css.scan()] == ["0.0.abcd"]


def test_disabled_subchannel_starts_nothing(subchannel: Subchannel) -> None:
    subchannel.start([Ccw(NO_OPERATION)])
    subchannel.disable()
    with pytest.raises(ChannelError, match="it is not operational"):
        subchannel.start([Ccw(NO_OPERATION)])


def test_chained_commands_leave_their_data_each(subchannel: Subchannel) -> None:
    identify = Ccw(SENSE_ID, Flag.SUPPRESS_LENGTH, 4)
    longer = Ccw(SENSE_ID, Flag.SUPPRESS_LENGTH, 7)
    ended = subchannel.start([identify, Ccw(NO_OPERATION), longer])
    assert ended.irb.device == DeviceStatus.CHANNEL_END | DeviceStatus.DEVICE_END
    assert ended.data == [bytes.fromhex("ff383204"), b"", bytes.fromhex("ff383204000000")]


def test_command_reject_is_reported(subchannel: Subchannel) -> None:
    """The error has the sense data and names the command."""
    program = [Ccw(NO_OPERATION), Ccw(UNKNOWN_COMMAND, data=b"data"), Ccw(NO_OPERATION)]
    said = r"0\.0\.0005: command 0x99 with 4 bytes ended in unit check \(command reject\)"
    with pytest.raises(ProgramFailed, match=said) as failed:
        subchannel.start(program)
    assert failed.value.irb.rejected
    assert failed.value.irb.device == DeviceStatus.UNIT_CHECK
    assert failed.value.irb.sense[0] == Sense.COMMAND_REJECT
    assert failed.value.ccw == program[1]
    assert failed.value.executed == 1


def test_sense_data_are_taken_with_their_status(subchannel: Subchannel) -> None:
    """BASIC SENSE returns none afterwards."""
    with pytest.raises(ProgramFailed):
        subchannel.start([Ccw(UNKNOWN_COMMAND)])
    ended = subchannel.start([Ccw(BASIC_SENSE, count=SENSE_SIZE)])
    assert ended.data == [bytes(SENSE_SIZE)]


def test_invalid_program_is_reported(subchannel: Subchannel) -> None:
    """BASIC SENSE with a wrong length, which is not suppressed."""
    with pytest.raises(
        ProgramFailed, match="command 0x04 with 7 bytes ended in program check"
    ) as failed:
        subchannel.start([Ccw(BASIC_SENSE, count=7)])
    assert failed.value.irb.subchannel == SubchannelStatus.PROGRAM_CHECK
    assert not failed.value.irb.rejected


def test_suspended_program_keeps_its_subchannel_busy(subchannel: Subchannel) -> None:
    """The subchannel stays busy until it is cleared."""
    suspended = [Ccw(NO_OPERATION), Ccw(NO_OPERATION, Flag.SUSPEND)]
    with pytest.raises(ProgramFailed, match="ended in program check"):
        subchannel.start(suspended)
    with pytest.raises(ChannelError, match="has not ended"):
        subchannel.start(suspended, suspendable=True)
    with pytest.raises(ChannelError, match="can't be started: it is busy"):
        subchannel.start([Ccw(NO_OPERATION)])
    assert subchannel.clear().pending
    subchannel.start([Ccw(NO_OPERATION)])


def test_idle_subchannel_has_no_status(subchannel: Subchannel) -> None:
    assert subchannel.test() is None
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for a status of 0\.0\.0005"):
        subchannel.wait(0.1)
    assert subchannel.halt().pending
    assert subchannel.test() is None
