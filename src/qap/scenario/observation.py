"""What a trial saw."""

from dataclasses import dataclass, field

from qap.oracle.fence import Outcome


@dataclass
class Observation:
    """What a trial saw.

    Attributes:
        outcome: works, refused, not served, or None where it was none of them (see `error`).
        error: what QEMU said of a device that is refused or not served, or what went wrong.
        features: the feature bits that the guest's driver negotiated.
        said: what was checked, in words.
        exit_status: QEMU's, where it ended by itself.
        seconds: how long it took.
        commands: how to repeat it by hand.
        io: what the guest's reads do once the back-end was killed: "goes on", "waits" or
            "fails"; "" if that was not looked at.
        again: the device worked with the back-end that came after it; None if none came.
        migrated: the VM did, and the device worked there; None if that was not tried.
        migration_error: why QEMU did not migrate it.
    """

    outcome: Outcome | None = None
    error: str = ""
    features: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    exit_status: int | None = None
    seconds: float = 0.0
    commands: list[str] = field(default_factory=list)
    io: str = ""
    again: bool | None = None
    migrated: bool | None = None
    migration_error: str = ""
