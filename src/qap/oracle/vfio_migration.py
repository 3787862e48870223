"""What the flags of a VFIO device's migration mean, and which states they allow.

Pure functions, written from linux/vfio.h (Linux 6.12), not from QEMU's code.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

FLAGS_CLAUSE = "vfio.h, struct vfio_device_feature_migration"
STATES_CLAUSE = "vfio.h, enum vfio_device_mig_state"


class Flag(IntFlag):
    """VFIO_MIGRATION_*: what a device says that it can do."""

    STOP_COPY = 1 << 0
    P2P = 1 << 1
    PRE_COPY = 1 << 2


DEFINED = int(Flag.STOP_COPY | Flag.P2P | Flag.PRE_COPY)


class State(IntEnum):
    """VFIO_DEVICE_STATE_*."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


QUIET = frozenset({State.RUNNING_P2P, State.PRE_COPY_P2P})
STOPPED = frozenset({State.STOP, State.STOP_COPY})


@dataclass(frozen=True)
class Grant:
    """What a device's flags allow.

    Attributes:
        granted: it can migrate.
        missing: the name of the flag that it lacks for that; "" if it can.
        states: those that may be asked for. ERROR never is: a device can only fall into it.
        unknown: bits without a meaning, which change nothing.
        clause: where the uAPI says so.
    """

    granted: bool
    missing: str
    states: frozenset[State]
    unknown: int
    clause: str = FLAGS_CLAUSE


def grant(flags: int) -> Grant:
    """What a device with these flags can do.

    Each of the four defined combinations has STOP_COPY: "at least VFIO_MIGRATION_STOP_COPY must
    be set". Flags are tested bit by bit: those that a later kernel defines do not take away what
    is defined today.

    Args:
        flags: 64 bits, as VFIO_DEVICE_FEATURE_MIGRATION gives them.
    """
    unknown = flags & ~DEFINED
    if not flags & Flag.STOP_COPY:
        return Grant(False, Flag.STOP_COPY.name or "", frozenset(), unknown)
    states = {State.RUNNING, State.STOP, State.STOP_COPY, State.RESUMING}
    if flags & Flag.P2P:
        states.add(State.RUNNING_P2P)
    if flags & Flag.PRE_COPY:
        states.add(State.PRE_COPY)
    if flags & Flag.P2P and flags & Flag.PRE_COPY:
        states.add(State.PRE_COPY_P2P)
    return Grant(True, "", frozenset(states), unknown)


def together(flags: Sequence[int]) -> str:
    """What keeps a VM with several devices from migrating: the flag that one lacks, or "".

    While one device is stopped, another that still runs may write to it. Only the quiescent
    states of P2P prevent that, "for the purposes of managing multiple devices".

    Args:
        flags: those of each device. One that can't migrate at all keeps the VM from it, too.
    """
    for each in flags:
        if missing := grant(each).missing:
            return missing
    lacking = len(flags) > 1 and not all(each & Flag.P2P for each in flags)
    return (Flag.P2P.name or "") if lacking else ""


def forbidden(entered: Iterable[State], flags: int) -> set[State]:
    """States among those that were asked for that the flags do not allow.

    "The optional states cannot be used with SET_STATE if the device does not support them."
    """
    return set(entered) - grant(flags).states


def stopped_early(entered: Sequence[tuple[str, State]], devices: Collection[str]) -> list[str]:
    """Devices with P2P that were stopped while another one was not quiet.

    Args:
        entered: device and state, in the order in which they were asked for.
        devices: all that the VM has. Each is running before the first entry.
    """
    now = dict.fromkeys(devices, State.RUNNING)
    early = []
    for device, state in entered:
        now[device] = state
        if state in STOPPED and any(now[other] not in QUIET | STOPPED for other in devices):
            early.append(device)
    return early


def saved_whole(state: State, errno_name: str) -> bool:
    """Whether what was read of a device is all of its state, as the last read says.

    In STOP_COPY only a read that returns 0 is the end. ENOMSG is the end for now, in pre-copy
    alone: "ENOMSG may not be returned in STOP_COPY" (vfio.h, VFIO_MIG_GET_PRECOPY_INFO).

    Args:
        state: the device's, at the read.
        errno_name: "" for a read that returned 0.
    """
    return state is State.STOP_COPY and not errno_name


def way_back(state: State) -> str:
    """What brings a device to RUNNING: "set" the state, or "reset" the device.

    "To recover from ERROR VFIO_DEVICE_RESET must be used", and "to abort a RESUMING session the
    device must be reset".
    """
    return "reset" if state in (State.ERROR, State.RESUMING) else "set"
