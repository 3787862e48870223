"""A VM that migrates from one QEMU to another, live."""

from pathlib import Path

from qap.machine.machine import Machine

MOVED_S = 30.0
ARRIVED = "completed"
ENDS = (ARRIVED, "failed")
EVENTS = [{"capability": "events", "state": True}]


def migrate(source: Machine, destination: Machine, folder: Path) -> str:
    """Migrate a VM; returns ARRIVED, or what the destination said.

    It runs there if it ran before, and waits if it waited.

    Args:
        destination: started with `-incoming defer`.
        folder: for a socket.
    Raises:
        TimeoutError: the migration does not end.
    """
    was_alive = source.alive
    uri = f"unix:{folder / 'migration.sock'}"
    destination.qmp.execute("migrate-set-capabilities", capabilities=EVENTS)
    destination.qmp.execute("migrate-incoming", uri=uri, exit_on_error=False)
    source.qmp.execute("migrate", uri=uri)
    event = destination.qmp.wait_event(
        "MIGRATION", lambda data: data.get("status") in ENDS, MOVED_S
    )
    if event["status"] == ARRIVED:
        assert destination.alive == was_alive
        return ARRIVED
    return destination.process.tail()
