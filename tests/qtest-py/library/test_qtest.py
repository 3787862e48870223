"""The QTest protocol: what each command does, what a refusal says, and how fast it is."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from qap.machine import qtest_command as command
from qap.machine.machine import Machine, QemuDied
from qap.machine.qtest import IrqChange, Qtest, QtestError, QtestLost
from qap.machine.qtest_command import QtestCommand
from qap.verify.kit.lab import Lab

RAM = 0x100_0000
PATTERN = bytes(range(1, 17))
PIC_MASK = 0x21
PIT_CHANNEL_0 = 0x40
PIT_CONTROL = 0x43
CONFIG_ADDRESS = 0xCF8
CONFIG_DATA = 0xCFC
IOAPIC = "ioapic"


@pytest.fixture
def machine(lab: Lab) -> Machine:
    started: Machine = lab.machine(qtest=True)
    return started


@pytest.fixture
def qtest(machine: Machine) -> Qtest:
    return machine.qtest


@pytest.fixture
def peer() -> Iterator[tuple[Qtest, socket.socket]]:
    """A session whose other end is the test, with half a second for an answer."""
    ours, theirs = socket.socketpair()
    with Qtest(ours, timeout=0.5) as session, theirs:
        yield session, theirs


@pytest.mark.parametrize("accel", ["qtest", "tcg"])
def test_session_works_with_either_accelerator(lab: Lab, accel: str) -> None:
    qtest = lab.machine(qtest=True, accel=accel).qtest
    qtest.writeq(RAM, 0x1122334455667788)
    assert qtest.readq(RAM) == 0x1122334455667788


@pytest.mark.parametrize(
    ("store", "load", "size"),
    [
        (command.writeb, command.readb, 1),
        (command.writew, command.readw, 2),
        (command.writel, command.readl, 4),
        (command.writeq, command.readq, 8),
    ],
)
def test_words_are_little_endian_and_touch_nothing_else(
    qtest: Qtest,
    store: Callable[[int, int], QtestCommand[None]],
    load: Callable[[int], QtestCommand[int]],
    size: int,
) -> None:
    qtest.memset(RAM, 16, 0xEE)
    value = int.from_bytes(PATTERN[:size], "little")
    qtest.run(store(RAM + 4, value))
    assert qtest.run(load(RAM + 4)) == value
    assert qtest.read(RAM, 16) == b"\xee" * 4 + PATTERN[:size] + b"\xee" * (12 - size)


def test_endianness_is_the_targets(qtest: Qtest) -> None:
    assert qtest.endianness() == "little"


def test_bytes_come_back_in_both_encodings(qtest: Qtest) -> None:
    qtest.write(RAM, PATTERN)
    assert qtest.b64read(RAM, 16) == PATTERN
    qtest.b64write(RAM + 3, PATTERN)
    assert qtest.read(RAM, 19) == PATTERN[:3] + PATTERN


def test_ports_of_every_width(qtest: Qtest) -> None:
    """The 8259's mask is a byte; the host bridge's ids are read by words and at once."""
    qtest.outb(PIC_MASK, 0xA5)
    assert qtest.inb(PIC_MASK) == 0xA5
    qtest.outl(CONFIG_ADDRESS, 1 << 31)
    ids = qtest.inl(CONFIG_DATA)
    assert ids & 0xFFFF == 0x8086
    assert [qtest.inw(CONFIG_DATA), qtest.inw(CONFIG_DATA + 2)] == [ids & 0xFFFF, ids >> 16]
    qtest.outl(CONFIG_ADDRESS, 1 << 31 | 4)
    qtest.outw(CONFIG_DATA, 0x0102)
    assert qtest.inw(CONFIG_DATA) & 0x0100 == 0x0100


def test_pipelined_commands_run_in_order(qtest: Qtest) -> None:
    commands: list[QtestCommand[int | None]] = []
    for number in range(1000):
        commands += [command.writel(RAM, number), command.readl(RAM)]
    assert qtest.run_all(commands)[1::2] == list(range(1000))


def test_pipeline_longer_than_any_socket_buffer(qtest: Qtest) -> None:
    """Commands and answers of 17 MiB each way: neither side may wait for the other."""
    data = bytes(range(256)) * 256
    commands: list[QtestCommand[bytes | None]] = []
    for _ in range(200):
        commands += [command.b64write(RAM, data), command.b64read(RAM, len(data))]
    assert set(qtest.run_all(commands)[1::2]) == {data}


def test_commands_are_all_sent_before_the_first_answer() -> None:
    ours, other = socket.socketpair()
    with Qtest(ours) as session, other, ThreadPoolExecutor(1) as pool:
        answers = pool.submit(session.run_all, [command.readb(RAM)] * 500)
        with other.makefile("rb") as lines:
            for _ in range(500):
                assert lines.readline() == f"readb {RAM:#x}\n".encode()
        other.sendall(b"OK 0x7\n" * 500)
        assert answers.result(10) == [7] * 500


def test_refusal_quotes_the_exchange(machine: Machine) -> None:
    machine.qtest.readb(RAM)
    with pytest.raises(QtestError) as refused:
        machine.qtest.irq_intercept_in("/machine/nowhere")
    assert str(refused.value) == "qtest irq_intercept_in /machine/nowhere: FAIL Unknown device"
    assert refused.value.detail.splitlines() == [
        f"> readb {RAM:#x}",
        "< OK 0x0000000000000000",
        "> irq_intercept_in /machine/nowhere",
        "< FAIL Unknown device",
    ]
    assert machine.alive


def test_refusal_within_a_pipeline_is_its_own(qtest: Qtest) -> None:
    """The error names the refused command; those around it are done."""
    with pytest.raises(QtestError, match="irq_intercept_in /x: FAIL"):
        qtest.run_all(
            [command.writeb(RAM, 1), command.irq_intercept_in("/x"), command.writeb(RAM + 1, 2)]
        )
    assert qtest.readw(RAM) == 0x0201


@pytest.mark.parametrize(
    "make",
    [
        lambda: command.inb(0x10000),
        lambda: command.writeb(RAM, 0x100),
        lambda: command.outw(PIC_MASK, -1),
        lambda: command.read(RAM, 0),
        lambda: command.write(RAM, b""),
        lambda: command.irq_intercept_in("two words"),
        lambda: command.irq_intercept_out("", None),
    ],
)
def test_what_qemu_would_abort_on_is_never_sent(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_clock_belongs_to_the_client(qtest: Qtest) -> None:
    now = qtest.clock_step(1000)
    assert qtest.clock_step(5) == now + 5
    assert qtest.clock_set(now + 100) == now + 100
    with pytest.raises(QtestError, match=f"clock_set {now}: FAIL"):
        qtest.clock_set(now)


def test_clock_is_not_the_clients_beside_tcg(lab: Lab) -> None:
    qtest = lab.machine(qtest=True, accel="tcg").qtest
    with pytest.raises(QtestError, match="Unknown command 'clock_step'"):
        qtest.clock_step(1)


def test_forced_interrupt_is_seen(qtest: Qtest) -> None:
    qtest.irq_intercept_in(IOAPIC)
    qtest.set_irq_in(IOAPIC, None, 5, 1)
    qtest.set_irq_in(IOAPIC, None, 5, 0)
    assert list(qtest.irqs) == [IrqChange(5, raised=True), IrqChange(5, raised=False)]


def test_interrupts_of_a_timer_come_between_answers(qtest: Qtest) -> None:
    """The 8254's channel 0 as a square wave, stepped past many periods in one pipeline."""
    qtest.irq_intercept_in(IOAPIC)
    qtest.run_all([command.outb(PIT_CONTROL, 0x36), *[command.outb(PIT_CHANNEL_0, 4)] * 2])
    times = qtest.run_all([command.clock_step(1_000_000)] * 20)
    assert times == [times[0] + 1_000_000 * step for step in range(20)]
    changes = [change.raised for change in qtest.irqs if change.number == 0]
    assert len(changes) > 20
    assert all(now != before for before, now in pairwise(changes))


def test_waiting_for_an_interrupt(qtest: Qtest) -> None:
    qtest.irq_intercept_in(IOAPIC)
    qtest.set_irq_in(IOAPIC, None, 5, 1)
    qtest.wait_irq(5, timeout=5)
    with pytest.raises(TimeoutError, match="interrupt 5 to be lowered"):
        qtest.wait_irq(5, raised=False, timeout=0.1)


def test_qemu_that_ends_loses_the_session(machine: Machine) -> None:
    machine.process.kill()
    with pytest.raises(QemuDied, match="with status -9"):
        machine.qtest.run_all([command.readl(RAM)] * 100_000)


def test_silence_says_what_is_unanswered_and_ends_the_session(
    peer: tuple[Qtest, socket.socket],
) -> None:
    session, other = peer
    other.sendall(b"OK 0x1\n")
    with pytest.raises(TimeoutError, match=r"waited 0\.5 s for the answer to qtest readb 0x20"):
        session.run_all([command.readb(0x10), command.readb(0x20)])
    with pytest.raises(QtestLost, match=r"out of step: .*readb 0x20"):
        session.readb(0x30)


def test_lines_in_pieces_and_interrupts_in_between(peer: tuple[Qtest, socket.socket]) -> None:
    session, other = peer
    other.sendall(b"IRQ raise 3\nOK 0x1\nIRQ low")
    assert session.readb(0) == 1
    other.sendall(b"er 3\nOK 0x2\n")
    assert session.readb(0) == 2
    assert [change.raised for change in session.irqs] == [True, False]


@pytest.mark.parametrize("answer", ["OK", "OK zero", "FAIL", "OKAY 0x1", "ERR bad", ""])
def test_answer_that_means_nothing_is_refused(
    peer: tuple[Qtest, socket.socket], answer: str
) -> None:
    session, other = peer
    other.sendall(f"{answer}\n".encode())
    with pytest.raises(QtestError) as refused:
        session.readb(0)
    assert refused.value.said == answer


def test_answer_that_only_begins_like_ok_is_refused(peer: tuple[Qtest, socket.socket]) -> None:
    session, other = peer
    other.sendall(b"OK!\n")
    with pytest.raises(QtestError, match="OK!"):
        session.writeb(0, 1)


def test_answer_to_no_question_ends_the_session(peer: tuple[Qtest, socket.socket]) -> None:
    session, other = peer
    other.sendall(b"OK 0x1\nOK 0x2\n")
    with pytest.raises(QtestLost, match="'OK 0x2' without being asked"):
        session.readb(0)


def test_writes_at_once_reach_qemu_in_one_piece(qtest: Qtest) -> None:
    with qtest.at_once():
        qtest.writel(RAM, 1)
        qtest.writel(RAM + 4, 2)
    assert qtest.read(RAM, 8) == b"\1\0\0\0\2\0\0\0"


def test_read_at_once_is_an_error(qtest: Qtest) -> None:
    with pytest.raises(ValueError, match=r"readl .* has an answer to wait for"), qtest.at_once():
        qtest.readl(RAM)
    assert qtest.readl(RAM) == 0


def test_timeout_can_be_changed(peer: tuple[Qtest, socket.socket]) -> None:
    session, _ = peer
    session.timeout = 0.1
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for the answer to qtest readb"):
        session.readb(0)
