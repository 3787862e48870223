"""What happens to the device of a scenario once it works: its back-end dies, or its VM migrates."""

from qap.host.errors import UsageError
from qap.machine.catalog import DeviceType, MachineType, viommus
from qap.machine.guest.load import TURNS
from qap.oracle.lifecycle import Loss, loss
from qap.scenario.choices import Choices

ANSWERS = "vhost-user-fs"  # of which a device can answer in place of its back-end


def check_events(kind: DeviceType, chosen: Choices, *, confidential: bool) -> None:
    """Refuse what can't happen to a device.

    Raises:
        UsageError: says why.
    """
    kill, name = chosen.kill_backend, kind.name
    if chosen.fail_requests and name != ANSWERS:
        raise UsageError(f"{name} has no x-fail-requests: leave out --fail-requests")
    if not kill and not chosen.migrate:
        return
    option = "--kill-backend" if kill else "--migrate"
    if kill and chosen.migrate:
        raise UsageError("--kill-backend and --migrate are two cases: leave out one of them")
    if kill and kind.vhost_user is None:
        raise UsageError(f"{name} is served {_server(kind)}: it has no back-end to kill")
    if kill == "busy" and kind.check not in TURNS:
        raise UsageError(f"no guest here reads {name} all the time: take --kill-backend idle")
    if chosen.plug == "replug":
        raise UsageError(f"{option} goes with --hotplug, or with neither: leave out --replug")
    if chosen.busy:
        raise UsageError(f"--busy is for the time of a plug: leave it out with {option}")
    if chosen.migrate and kind.vhost_user and kind.vhost_user.keeps:
        kept = kind.vhost_user.keeps
        raise UsageError(f"the back-end of {name} does not hand over {kept}: leave out --migrate")
    if chosen.migrate and confidential:
        raise UsageError("a simulated confidential guest does not migrate: leave out --migrate")


def _server(kind: DeviceType) -> str:
    return "by the kernel" if kind.kernel else "by QEMU"


def expected_loss(kind: DeviceType, chosen: Choices) -> Loss | None:
    """What must become of a guest whose back-end is killed; None if that does not happen."""
    if not chosen.kill_backend:
        return None
    assert kind.vhost_user is not None
    return loss(
        reconnects=kind.vhost_user.reconnects,
        busy=chosen.kill_backend == "busy",
        answers=chosen.fail_requests,
        replaced=chosen.plug == "hot",
    )


def unmigratable(kind: DeviceType, machine: MachineType, chosen: Choices) -> str:
    """What keeps QEMU from migrating the VM; "" if nothing does."""
    if kind.unmigratable:
        return kind.name
    if machine.unmigratable:
        return machine.name
    return chosen.viommu if viommus()[chosen.viommu].unmigratable else ""
