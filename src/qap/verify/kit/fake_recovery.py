"""A kernel's recovery from errors of a PCI device that is a shared library below QEMU's ioctl."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from qap.host.compiler import LIBRARY, compile_c
from qap.lab.l1 import L1

SOURCE = Path(__file__).with_name("fake_recovery.c")
# The patched tree's: the interface's number and layout are nowhere else.
HEADERS = "hw/vfio"
ANSWERED_S = 20.0
FROZEN = 1 << 8


class State(IntEnum):
    """How far the host is, as the status word has it."""

    NONE = 0
    DETECTED = 1
    RECOVERING = 2
    RESUMED = 3
    LOST = 4


@dataclass(frozen=True)
class FakeRecovery:
    """What a QEMU in L1 asks instead of L1's kernel.

    Args:
        l1: where it runs.
        fifo: of L1, by which it is told what to say.
        library: below `l1.folder`.
    """

    l1: L1
    fifo: str
    library: Path

    @classmethod
    def made(cls, l1: L1) -> "FakeRecovery":
        """Compile it, and make its fifo."""
        name = l1.name("recovery")
        library = l1.folder / f"{name}.so"
        headers = l1.build.project.tree / HEADERS
        compile_c(SOURCE, library, *LIBRARY, "-pthread", f"-I{headers}")
        l1.check(f"mkfifo /run/{name} && : >/run/{name}.log")
        return cls(l1, f"/run/{name}", library)

    @property
    def wrapper(self) -> list[str]:
        """The words of a command that runs QEMU on it."""
        return ["env", f"FAKE_RECOVERY={self.fifo}", f"LD_PRELOAD={self.library}"]

    def tell(self, state: State, sequence: int, *, frozen: bool = False) -> None:
        """Let the status change, and wait until QEMU has asked for it.

        Args:
            sequence: how many errors there have been.
            frozen: the link is reset.
        """
        status = state | (FROZEN if frozen else 0)
        self._say(f"{status} {sequence}", f"get {status} {sequence}")

    def fail(self, errno: int) -> None:
        """Let QEMU be signalled, and its question fail; wait until it has."""
        self._say(f"{errno} -", "failed")

    def _say(self, line: str, answered: str) -> None:
        """Wait for one more line in its log than there was."""
        count = f"grep -c '^{answered}' {self.fifo}.log"
        before = int(self.l1.check(f"{count} || true"))
        self.l1.check(f"echo '{line}' >{self.fifo}")
        self._await(f"test $({count}) -gt {before}")

    def _await(self, condition: str) -> None:
        self.l1.check(f'timeout {ANSWERED_S:g} await "{condition}"')
