"""Something that a guest does with a device again and again, beside what else it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qap.host.errors import QapError
from qap.machine.catalog import Check
from qap.machine.guest.console import Console
from qap.machine.guest.io_checks import UNCHANGED, block_nodes

TURN_S = 30.0
# How long a guest's turn may take that nothing holds up: it reads 1 MiB at most.
STALL_S = 8
MOUNT = "/mnt/load"
DISK = "dd if=/dev/$(%s) of=/dev/null bs=64k count=16 iflag=direct"
# By the check of configs/devices.toml: a turn, which the page cache has no part in.
TURNS: Mapping[Check, str] = {
    "disk": DISK,
    "files": f"dd if={MOUNT}/{UNCHANGED} of=/dev/null bs=64k iflag=direct",
    "random": "dd if=/dev/hwrng of=/dev/null bs=64 count=1",
}
ANY_DISK = "ls /sys/block | grep '^[vs]d'"

State = Literal["goes on", "waits", "fails"]


class TurnFailed(QapError):
    """A turn failed."""


@dataclass(frozen=True)
class Load:
    """A shell command that is run round after round until it fails.

    Args:
        console: of the guest; another one once it has migrated.
        turn: the command.
    """

    console: Console
    turn: str

    @classmethod
    def on_any_disk(cls, console: Console) -> "Load":
        """Reads of the guest's only disk."""
        # Others may come later.
        node = console.check(f'await "{ANY_DISK}" && {ANY_DISK}')
        return cls(console, DISK.replace("$(%s)", node))

    @classmethod
    def of(cls, console: Console, check: Check, name: str) -> "Load":
        """Reads of a device.

        Args:
            check: how it proves service; one of TURNS.
            name: of the device under /sys/bus/virtio/devices.
        """
        if check == "files":
            console.check(f"mkdir -p {MOUNT} && mount -t virtiofs share {MOUNT}")
        turn = TURNS[check]
        return cls(console, turn % block_nodes(name) if check == "disk" else turn)

    def start(self) -> None:
        """Begin."""
        turns = f"while {self.turn}; do echo x >>/tmp/turns; done 2>/tmp/said; echo >/tmp/failed"
        self.console.check(f"touch /tmp/turns; ({turns}) </dev/null >/dev/null 2>&1 &")

    def turns(self) -> int:
        """How many there were so far."""
        return int(self.console.check("wc -l </tmp/turns"))

    def state(self) -> State:
        """What becomes of it in the next seconds."""
        # One turn may be almost over.
        more = self.turns() + 1
        over = f"test -e /tmp/failed || test \\$(wc -l </tmp/turns) -gt {more}"
        if self.console.run(f'await --for {STALL_S} "{over}"').status:
            return "waits"
        return "fails" if self.console.run("test -e /tmp/failed").status == 0 else "goes on"

    def said(self) -> str:
        """What the command said when it failed."""
        return self.console.check("grep -v records /tmp/said | tail -n 1").strip()

    def went_on(self) -> int:
        """See that it goes on, and that no turn failed; returns how many there were.

        Raises:
            TurnFailed: one failed.
            TimeoutError: there are no more.
        """
        before = self.turns()
        more = f"test -e /tmp/failed || test \\$(wc -l </tmp/turns) -gt {before}"
        self.console.check(f'await "{more}"', TURN_S)
        if self.console.run("test -e /tmp/failed").status == 0:
            raise TurnFailed(f"a read of the guest's failed: {self.said()}")
        return before
