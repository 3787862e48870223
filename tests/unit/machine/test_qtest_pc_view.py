"""What a driver of a PC sends to a machine of another kind."""

from collections.abc import Sequence
from typing import TypeVar

import pytest

from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand
from qap.machine.qtest_pc_view import HostBridge, PcView

T = TypeVar("T")
BRIDGE = HostBridge(ports=0x9F00_0000, ecam=0x9E00_0000)
SELECT = 1 << 31 | 2 << 11 | 0x10


class Answering(Qtest):
    """Keeps what it is sent, and gives one answer to every read."""

    def __init__(self, answer: str = "0x11223344") -> None:
        self.answer = answer
        self.sent: list[str] = []

    def run_all(self, commands: Sequence[QtestCommand[T]]) -> list[T]:
        self.sent += [sent.line for sent in commands]
        return [sent.parse(self.answer if sent.answers else "") for sent in commands]


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (command.writel(0x100, 0x11223344), "writel 0x100 0x44332211"),
        (command.writew(0x100, 0x1122), "writew 0x100 0x2211"),
        (command.writeb(0x100, 0x11), "writeb 0x100 0x11"),
        (command.outw(0x20, 0x1122), "writew 0x9f000020 0x2211"),
        (command.b64write(0x100, b"ab"), "b64write 0x100 0x2 YWI="),
    ],
)
def test_words_are_little_endian_and_ports_are_in_memory(
    sent: QtestCommand[None], line: str
) -> None:
    session = Answering()
    PcView(session, BRIDGE).run(sent)
    assert session.sent == [line]


def test_word_is_read_in_little_endian_order() -> None:
    session = Answering()
    assert PcView(session, BRIDGE).run(command.readl(0x100)) == 0x44332211
    assert session.sent == ["readl 0x100"]


def test_words_of_a_little_endian_machine_stay_as_they_are() -> None:
    session = Answering()
    view = PcView(session, BRIDGE, swapped=False)
    assert view.run(command.readl(0x100)) == 0x11223344
    view.run(command.outw(0x20, 0x1122))
    assert session.sent == ["readl 0x100", "writew 0x9f000020 0x1122"]


def test_configuration_is_selected_by_its_port() -> None:
    """PCI 3.2.2.3.2, and PCIe 7.2.2: function 00:02.0, register 10h."""
    session = Answering("0x3344")
    view = PcView(session, BRIDGE)
    _, value = view.run_all([command.outl(0xCF8, SELECT), command.inw(0xCFC + 2)])
    assert value == 0x4433
    assert session.sent[1] == "readw 0x9e010012"
