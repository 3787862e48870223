"""The machine and the device that somebody names on a command line."""

from collections.abc import Sequence

from qap.host.errors import UsageError, unknown_name
from qap.machine.catalog import DeviceType, MachineType, device_types, machine_types


def asked(machine: str, device: str) -> tuple[MachineType, DeviceType]:
    """What is meant.

    Args:
        machine: a machine type, as configs/machines.toml or -machine calls it.
        device: a device type, as configs/devices.toml or -device calls it. Where it has the name
            of a transport, that decides which of the machine's buses it goes to.
    Raises:
        UsageError: a name is not known; gives the nearest.
    """
    rows = [row for row in machine_types().values() if machine in (row.name, row.called)]
    if not rows:
        raise _unknown_machine(machine)
    for row in rows:
        known = {kind.driver(row.transport): kind for kind in reversed(device_types().values())}
        if kind := known.get(device):
            if _has(kind, row):
                return row, kind
            raise UsageError(f"{kind.name} has no {row.transport} transport in QEMU")
    if kind := device_types().get(device):
        fitting = [row for row in rows if _has(kind, row)]
        if fitting:
            return fitting[0], kind
        raise UsageError(f"{device} has no {rows[0].transport} transport, which {machine} has")
    raise _unknown_device(rows, device)


def _has(kind: DeviceType, machine: MachineType) -> bool:
    return machine.transport in kind.every_transport


def _unknown_device(rows: Sequence[MachineType], device: str) -> UsageError:
    """The error for a device that isn't in the catalogue, or has another transport."""
    machine = rows[0]
    elsewhere = {
        kind.driver(transport): kind
        for kind in device_types().values()
        for transport in kind.every_transport
    }
    if device in elsewhere:
        kind = elsewhere[device]
        names = {kind.driver(row.transport): row for row in rows if _has(kind, row)}
        there = f"try {next(iter(names))}" if names else f"{kind.name} has none for it"
        transports = " and ".join(row.transport for row in rows)
        return UsageError(f"{machine.called} has {transports}, so no {device}: {there}")
    known = [kind.driver(row.transport) for row in rows for kind in device_types().values()]
    return unknown_name("device", device, known)


def _unknown_machine(name: str) -> UsageError:
    """The error for a machine type that isn't in the catalogue; it may be a version of one."""
    for known in machine_types().values():
        before, brace, _ = known.versioned.partition("{}")
        if brace and name.startswith(before):
            return UsageError(
                f"{name} is a version of {known.name}, of which guests boot on the newest: "
                f"--machine {known.name}; cells of the matrix have older ones (--cell)"
            )
    return unknown_name("machine", name, machine_types())
