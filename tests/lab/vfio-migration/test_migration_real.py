"""A VM moves from QEMU to QEMU with a device of a real kernel driver."""

import pytest

from qap.lab.migration_layer import MigrationLayer, Rules, What
from qap.lab.mtty import Mtty
from qap.lab.mtty_machine import SCRATCH, SLOT, MttyMachine
from qap.oracle.vfio_migration import QUIET, Flag, State, forbidden, stopped_early

pytest_plugins = ["qap.verify.kit.mtty_lab"]

EVENT_S = 20.0
MARK = 0x5A
# What the driver has, and the rest of what is defined.
WHOLE = int(Flag.STOP_COPY | Flag.P2P | Flag.PRE_COPY)


def test_qemu_gets_what_the_kernel_grants(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    machine.take(ports[0])
    (call,) = layer.calls()
    assert (call.what, call.first, call.second) == (What.FLAGS, WHOLE, WHOLE)


@pytest.mark.parametrize("flags", [WHOLE, 0x5, 0x3, 0x1], ids=hex)
def test_port_moves_with_its_state(
    own_machine: MttyMachine,
    destination: MttyMachine,
    layer: MigrationLayer,
    ports: list[Mtty],
    flags: int,
) -> None:
    if flags != WHOLE:
        for port in ports:
            layer.rule(port, Rules(flags=flags))
    own_machine.take(ports[0])
    destination.take(ports[1])
    at = own_machine.map_port()
    own_machine.qtest.outb(at + SCRATCH, MARK)
    assert own_machine.migrate_to(destination) == ("completed", "completed")
    assert destination.qtest.inb(at + SCRATCH) == MARK
    entered = [call for call in layer.calls() if call.what is What.ENTERED]
    # The kernel says that it is where it was asked to go.
    assert all(call.first == call.second for call in entered)
    states = {State(call.first) for call in entered}
    assert forbidden(states, flags) == set()
    assert (State.PRE_COPY in states) == bool(flags & Flag.PRE_COPY)
    assert bool(states & QUIET) == bool(flags & Flag.P2P)


def test_two_ports_move_and_are_quiet_before_one_stops(
    own_machine: MttyMachine, destination: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    own_machine.take(*ports[:2])
    destination.take(*ports[2:4])
    places = [own_machine.map_port(slot) for slot in (SLOT, SLOT + 1)]
    for number, at in enumerate(places, MARK):
        own_machine.qtest.outb(at + SCRATCH, number)
    assert own_machine.migrate_to(destination) == ("completed", "completed")
    arrived = [destination.qtest.inb(at + SCRATCH) for at in places]
    assert arrived == [MARK, MARK + 1]
    here = [port.name for port in ports[:2]]
    assert stopped_early([one for one in layer.asked() if one[0] in here], here) == []


def test_events_tell_the_states_that_are_entered(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    machine.plug(ports[0].device(addr=str(SLOT), enable_migration="on", migration_events=True))
    machine.qmp.execute("stop")
    machine.qmp.execute("cont")
    for _, state in layer.asked():
        event = machine.qmp.wait_event("VFIO_MIGRATION", lambda _: True, EVENT_S)
        assert event["device-state"] == state.name.lower().replace("_", "-")
        assert event["device-id"] == ports[0].name
    assert len(layer.asked()) == 4
