"""Where on a machine a device can be plugged."""

from qap.host.errors import UsageError, unknown_name
from qap.machine.catalog import DeviceType, MachineType


def check_place(machine: MachineType, kind: DeviceType, *, plug: str, behind: str = "") -> None:
    """Refuse what QEMU has no way to do.

    Args:
        plug: "cold", or how it is plugged while the machine runs.
        behind: one of the machine's other places.
    Raises:
        UsageError: the machine has no such place, or takes no such device there or then.
    """
    if kind.machines and machine.called not in kind.machines:
        raise UsageError(f"{kind.name} goes on {', '.join(kind.machines)} alone")
    if behind and behind not in machine.behind:
        if not machine.behind:
            raise UsageError(f"{machine.name} has one place for a device: no --behind there")
        raise unknown_name(f"place of {machine.name}", behind, machine.behind)
    if plug == "cold":
        return
    there = machine.behind[behind].hotplug if behind else ""
    if why := machine.hotplug or there or kind.hotplug:
        raise UsageError(f"{kind.driver(machine.transport)} is not hot-plugged there: {why}")
