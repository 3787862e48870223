"""What goes wrong on a QTest session."""

from qap.host.errors import QapError

SHOWN = 100


class QtestError(QapError):
    """QEMU answered with something else than OK; `detail` quotes the exchange.

    Attributes:
        asked: the command's line.
        said: the whole answer.
    """

    def __init__(self, asked: str, said: str, exchange: str) -> None:
        super().__init__(f"qtest {shortened(asked)}: {shortened(said)}", exchange)
        self.asked = asked
        self.said = said


class QtestLost(QapError):
    """The session can't be used any more: QEMU closed it, or an answer did not come."""


class QemuHangs(TimeoutError):
    """QEMU did not answer in time: its main loop hangs, or another thread keeps its lock."""


def shortened(line: str) -> str:
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}... ({len(line)} characters)"
