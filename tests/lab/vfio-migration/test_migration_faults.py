"""Devices and kernels that fail in the midst of a migration."""

import errno
from collections.abc import Sequence

import pytest

from qap.lab.migration_layer import Call, MigrationLayer, Rules, What
from qap.lab.mtty import Mtty
from qap.lab.mtty_machine import SCRATCH, MttyMachine
from qap.machine.qmp import QmpRefused
from qap.oracle.vfio_migration import State, saved_whole, way_back

pytest_plugins = ["qap.verify.kit.mtty_lab"]

# The states that a source goes through, by the flags of its device.
WAYS = {
    0x1: [State.STOP, State.STOP_COPY],
    0x3: [State.RUNNING_P2P, State.STOP, State.STOP_COPY],
    0x5: [State.PRE_COPY, State.STOP_COPY],
    0x7: [State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY],
}
REFUSALS = [(flags, state) for flags, states in WAYS.items() for state in states]
MARK = 0xA5


def of(calls: Sequence[Call], port: Mtty) -> list[Call]:
    return [call for call in calls if call.device == port.name]


def resets(calls: Sequence[Call]) -> list[Call]:
    return [call for call in calls if call.what is What.RESET]


def last_state(calls: Sequence[Call]) -> State:
    """The state that a device is in after its last change."""
    return State([call.second for call in calls if call.what in (What.ENTERED, What.RESET)][-1])


def marked(machine: MttyMachine, *ports: Mtty) -> int:
    """Plug ports and write MARK into the first one's scratch register; returns its I/O port."""
    machine.take(*ports)
    at = machine.map_port()
    machine.qtest.outb(at + SCRATCH, MARK)
    return at


# Arrives: a stream is one, however it is cut.


@pytest.mark.parametrize(("flags", "most"), [(0x1, 7), (0x3, 7), (0x5, 7), (0x7, 7), (0x7, 1)])
def test_short_reads_lose_nothing(
    own_machine: MttyMachine,
    destination: MttyMachine,
    layer: MigrationLayer,
    ports: list[Mtty],
    flags: int,
    most: int,
) -> None:
    layer.rule(ports[0], Rules(flags=flags, read_most=most))
    at = marked(own_machine, ports[0])
    destination.take(ports[1])
    assert own_machine.migrate_to(destination) == ("completed", "completed")
    assert destination.qtest.inb(at + SCRATCH) == MARK
    reads = [call for call in of(layer.calls(), ports[0]) if call.what is What.READ]
    assert max(call.first for call in reads) == most


@pytest.mark.parametrize("flags", [0x5, 0x7], ids=hex)
def test_nothing_for_now_is_not_the_end_in_pre_copy(
    slow_machine: MttyMachine,
    slow_destination: MttyMachine,
    layer: MigrationLayer,
    ports: list[Mtty],
    flags: int,
) -> None:
    layer.rule(ports[0], Rules(flags=flags, read_most=5, pauses=True))
    at = marked(slow_machine, ports[0])
    slow_destination.take(ports[1])
    assert slow_machine.migrate_to(slow_destination) == ("completed", "completed")
    assert slow_destination.qtest.inb(at + SCRATCH) == MARK
    reads = [call.first for call in of(layer.calls(), ports[0]) if call.what is What.READ]
    between = reads.index(-errno.ENOMSG)
    assert any(read > 0 for read in reads[between:])


# Does not arrive, and the source goes on.


def test_nothing_for_now_is_an_error_once_the_device_has_stopped(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    number = errno.ENOMSG
    rules = Rules(read_most=8, no_read=State.STOP_COPY, read_errno=number)
    layer.rule(ports[0], rules)
    machine.take(ports[0])
    whole = saved_whole(State.STOP_COPY, errno.errorcode[number])
    assert machine.migrate() == ("completed" if whole else "failed")
    machine.wait_for("running")
    assert last_state(layer.calls()) == State.RUNNING


@pytest.mark.parametrize(
    ("flags", "state"), [(0x1, State.STOP_COPY), (0x7, State.PRE_COPY), (0x7, State.STOP_COPY)]
)
def test_read_that_fails_ends_the_migration(
    slow_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int, state: State
) -> None:
    rules = Rules(flags=flags, read_most=8, no_read=state, read_errno=errno.EIO)
    layer.rule(ports[0], rules)
    slow_machine.take(ports[0])
    assert slow_machine.migrate() == "failed"
    slow_machine.wait_for("running")
    assert last_state(layer.calls()) == State.RUNNING
    assert not resets(layer.calls())


@pytest.mark.parametrize("flags", list(WAYS), ids=hex)
def test_session_without_a_descriptor_ends_the_migration(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    begins = State.PRE_COPY if State.PRE_COPY in WAYS[flags] else State.STOP_COPY
    layer.rule(ports[0], Rules(flags=flags, no_data_fd=begins))
    machine.take(ports[0])
    assert machine.migrate() == "failed"
    machine.wait_for("running")
    assert last_state(layer.calls()) == State.RUNNING
    layer.rule(ports[0], Rules(flags=flags))
    assert machine.migrate() == "completed"


def test_destination_without_a_descriptor_refuses_what_comes(
    own_machine: MttyMachine, destination: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[1], Rules(no_data_fd=State.RESUMING))
    at = marked(own_machine, ports[0])
    destination.take(ports[1])
    _, there = own_machine.migrate_to(destination)
    assert there == "failed"
    own_machine.recover()
    assert own_machine.qtest.inb(at + SCRATCH) == MARK


def test_destination_that_can_not_load_refuses_what_comes(
    own_machine: MttyMachine, destination: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[1], Rules(refuse=State.RESUMING, errno=errno.EBUSY))
    at = marked(own_machine, ports[0])
    destination.take(ports[1])
    _, there = own_machine.migrate_to(destination)
    assert there == "failed"
    own_machine.recover()
    assert own_machine.qtest.inb(at + SCRATCH) == MARK


@pytest.mark.parametrize(("flags", "state"), REFUSALS)
def test_state_that_is_refused_ends_the_migration(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int, state: State
) -> None:
    layer.rule(ports[0], Rules(flags=flags, refuse=state, errno=errno.EBUSY))
    machine.take(ports[0])
    assert machine.migrate() == "failed"
    machine.wait_for("running")
    assert last_state(layer.calls()) == State.RUNNING
    assert State.ERROR not in {asked for _, asked in layer.asked()}
    layer.rule(ports[0], Rules(flags=flags))
    assert machine.migrate() == "completed"


@pytest.mark.parametrize(("flags", "state"), REFUSALS)
def test_device_in_error_is_reset(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int, state: State
) -> None:
    rules = Rules(flags=flags, refuse=state, errno=errno.EIO, for_good=True)
    layer.rule(ports[0], rules)
    machine.take(ports[0])
    assert machine.migrate() == "failed"
    machine.wait_for("running")
    assert way_back(State.ERROR) in {call.what for call in layer.calls()}
    assert State.ERROR not in {asked for _, asked in layer.asked()}
    assert last_state(layer.calls()) == State.RUNNING
    layer.rule(ports[0], Rules(flags=flags))
    assert machine.migrate() == "completed"


# Can't be reset either.


def broken(flags: int, state: State) -> Rules:
    """A device that falls into ERROR on the way to a state, and can't be reset."""
    return Rules(
        flags=flags,
        refuse=state,
        errno=errno.EIO,
        for_good=True,
        no_reset=errno.ENODEV,
    )


@pytest.mark.parametrize(("flags", "state"), REFUSALS)
def test_device_that_can_not_be_reset_stops_the_vm(
    own_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int, state: State
) -> None:
    layer.rule(ports[0], broken(flags, state))
    own_machine.take(ports[0])
    assert own_machine.migrate() == "failed"
    own_machine.wait_for("internal-error")
    with pytest.raises(QmpRefused):
        own_machine.qmp.execute("cont")
    # It works again once it could be reset.
    layer.rule(ports[0], Rules(flags=flags))
    own_machine.recover()
    own_machine.wait_for("running")
    assert last_state(layer.calls()) == State.RUNNING
    assert own_machine.migrate() == "completed"


def test_vm_does_not_run_with_a_device_that_can_not_be_reset(
    own_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[0], broken(0x7, State.STOP))
    own_machine.take(ports[0])
    own_machine.qmp.execute("stop")
    own_machine.qmp.execute("cont")
    own_machine.wait_for("internal-error")
    # Nor after a reset of the VM, as long as the device has none.
    own_machine.recover()
    own_machine.wait_for("internal-error")


def test_vm_with_a_device_in_error_does_not_migrate(
    own_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[0], broken(0x7, State.STOP))
    own_machine.take(ports[0])
    own_machine.qmp.execute("stop")
    assert own_machine.migrate() == "failed"
    entered = {call.first for call in layer.calls() if call.what is What.ENTERED}
    assert State.STOP_COPY not in entered


def test_device_in_error_can_be_unplugged(
    own_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[0], broken(0x7, State.STOP_COPY))
    own_machine.take(ports[0])
    assert own_machine.migrate() == "failed"
    own_machine.wait_for("internal-error")
    own_machine.give_back(ports[0])
    own_machine.recover()
    own_machine.wait_for("running")
    assert own_machine.migrate() == "completed"


def test_destination_whose_device_can_not_be_reset_says_so(
    own_machine: MttyMachine, destination: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[1], broken(0x7, State.RESUMING))
    at = marked(own_machine, ports[0])
    destination.take(ports[1])
    _, there = own_machine.migrate_to(destination)
    assert there == "failed"
    assert ports[1].name in destination.process.tail(40)
    own_machine.recover()
    assert own_machine.qtest.inb(at + SCRATCH) == MARK


# The VM is paused.


@pytest.mark.parametrize("flags", list(WAYS), ids=hex)
def test_device_of_a_paused_vm_stays_stopped_when_a_migration_fails(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    rules = Rules(flags=flags, refuse=State.STOP_COPY, errno=errno.EBUSY)
    layer.rule(ports[0], rules)
    machine.take(ports[0])
    machine.qmp.execute("stop")
    assert machine.migrate() == "failed"
    machine.wait_for("paused")
    assert last_state(layer.calls()) == State.STOP
    assert State.RUNNING not in [asked for _, asked in layer.asked()]
    machine.qmp.execute("cont")
    assert last_state(layer.calls()) == State.RUNNING
