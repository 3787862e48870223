"""The balloon of a guest, which takes memory when the user asks for it over QMP."""

from qap.host.wait import poll_until
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused

MIB = 1 << 20
TAKEN = 64 * MIB
INFLATE_S = 30.0
TOTAL = "awk '/^MemTotal/ {print $2}' /proc/meminfo"


class BalloonStuck(TimeoutError):
    """The guest's memory is not what was asked for."""


def ask(machine: Machine) -> str:
    """Ask for less memory, and don't wait; returns what came of the command."""
    try:
        machine.qmp.execute("balloon", value=machine.spec.memory * MIB - TAKEN)
    except QmpRefused as refused:
        return f"QMP balloon fails: {refused.said}"
    return "QMP balloon succeeds, and nothing comes of it"


def inflate(machine: Machine) -> list[str]:
    """Take memory from the guest and give it back.

    Raises:
        TimeoutError: the balloon does not follow.
    """
    before = int(machine.console.check(TOTAL))
    _reach(machine, machine.spec.memory * MIB - TAKEN)
    less = before - int(machine.console.check(TOTAL))
    _reach(machine, machine.spec.memory * MIB)
    if less != TAKEN >> 10:
        raise BalloonStuck(f"the guest gave {less} KiB of {TAKEN >> 10}")
    return [f"balloon took {TAKEN // MIB} MiB of the guest's memory and gave it back"]


def _reach(machine: Machine, size: int) -> None:
    machine.qmp.execute("balloon", value=size)

    def reached() -> bool | None:
        return True if machine.qmp.execute("query-balloon")["actual"] == size else None

    poll_until(reached, INFLATE_S, lambda: f"the balloon to leave {size // MIB} MiB")
