"""Errors that go on to the guest."""

from dataclasses import dataclass

import pytest

from qap.hw.aer import (
    COMPLETION_TIMEOUT,
    MULTIPLE_UNCORRECTABLE_RECEIVED,
    NON_FATAL_DETECTED,
    NON_FATAL_RECEIVED,
    UNCORRECTABLE_RECEIVED,
    UNCORRECTABLE_STATUS,
)
from qap.lab.assigned import Assigned
from qap.lab.l1 import L1
from qap.machine.machine import QemuDied
from qap.oracle.vfio_error import Place, obstacle
from qap.verify.kit.assigned_machine import TOLD_S, AssignedMachine, assigned_l2, assigned_machine

SECOND_NS = 1_000_000_000


def inject_seen(l1: L1, assigned: Assigned) -> None:
    """Inject an error that is not fatal, and wait until L1's kernel has met it."""
    said = f"Non-Fatal) error message received from {assigned.address}"
    before = l1.check(f"dmesg | grep -c '{said}' || true")
    assigned.inject("COMP_TIME")
    seen = f"test \\$(dmesg | grep -c '{said}') -gt {before}"
    l1.check(f'timeout {TOLD_S:g} await "{seen}"')


def forwarded(vm: AssignedMachine) -> int:
    return sum(told["action"] == "forward" for told in vm.told)


def test_the_guest_is_told_by_its_root_port(assigned: Assigned) -> None:
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject("COMP_TIME")
        assert vm.wait("forward")["severity"] == "nonfatal"
        assert vm.port.received == UNCORRECTABLE_RECEIVED | NON_FATAL_RECEIVED
        assert vm.port.source == vm.device.bdf
        assert vm.device.status == COMPLETION_TIMEOUT
        assert vm.device.device_status & 0xF == NON_FATAL_DETECTED
        assert vm.machine.alive
        vm.device.clear()
        vm.port.acknowledge()
        assert (vm.device.status, vm.device.device_status & 0xF, vm.port.received) == (0, 0, 0)


def test_an_error_of_a_port_above_is_told_as_the_devices(assigned: Assigned) -> None:
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject("COMP_TIME", port=True)
        vm.wait("forward")
        assert vm.port.source == vm.device.bdf


def test_an_error_that_is_signalled_again_counts_once(assigned: Assigned) -> None:
    """A fatal one at the end shows that there was no second event before it."""
    with assigned_machine(assigned) as vm:
        vm.listen()
        for _ in range(3):
            assigned.inject("COMP_TIME")
        vm.wait("forward")
        assert not vm.port.received & MULTIPLE_UNCORRECTABLE_RECEIVED
        assigned.inject("DLP")
        vm.wait("stop")
        assert forwarded(vm) == 1


def test_a_storm_is_told_as_one_a_second(l1: L1, assigned: Assigned) -> None:
    """The second is one of the guest's time, which the test moves."""
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject("COMP_TIME")
        vm.wait("forward")
        for _ in range(4):
            inject_seen(l1, assigned)
        vm.wait_held()
        assert not vm.port.received & MULTIPLE_UNCORRECTABLE_RECEIVED
        vm.machine.qtest.clock_step(SECOND_NS)
        vm.wait("forward")
        assert vm.port.received & MULTIPLE_UNCORRECTABLE_RECEIVED
        assigned.inject("DLP")
        vm.wait("stop")
        assert forwarded(vm) == 2


def test_a_guest_that_is_paused_is_told_when_it_goes_on(assigned: Assigned) -> None:
    with assigned_machine(assigned) as vm:
        vm.listen()
        vm.machine.qmp.execute("stop")
        assigned.inject("COMP_TIME")
        vm.wait_held()
        assert vm.port.received == 0
        vm.machine.qmp.execute("cont")
        vm.wait("forward")
        assert vm.port.received & NON_FATAL_RECEIVED


def test_a_fatal_error_of_an_earlier_machine_is_not_told_again(assigned: Assigned) -> None:
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject("DLP")
        assert vm.wait("stop")["severity"] == "fatal"
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject("COMP_TIME")
        assert vm.wait("forward")["severity"] == "nonfatal"


def test_a_guest_does_not_keep_errors_from_the_host(assigned: Assigned) -> None:
    before = assigned.settings()
    with assigned_machine(assigned) as vm:
        vm.device.report(0)
        vm.device.mask_all()
        assert vm.device.device_control & 0xF == 0
        assert assigned.settings() == before
        vm.listen()
        vm.device.write(UNCORRECTABLE_STATUS, 0xFFFF_FFFF)
        assigned.inject("DLP")
        assert vm.wait("stop")["severity"] == "fatal"


@dataclass(frozen=True)
class Spot:
    """A bus of the machine, the device's properties there, and what the oracle makes of it."""

    bus: str
    properties: dict[str, object]
    place: Place


SPOTS = {
    "root bus": Spot("pcie.0", {}, Place(port_aer=False)),
    "multifunction": Spot("port0", {"multifunction": True}, Place(alone=False)),
}


@pytest.mark.parametrize("where", SPOTS)
def test_a_place_where_it_can_not_work_is_refused_on_request(
    assigned: Assigned, where: str
) -> None:
    spot = SPOTS[where]
    properties = {**spot.properties, "x-forward-errors": "on"}
    with pytest.raises(QemuDied) as died, assigned_l2(assigned, properties, bus=spot.bus):
        pass
    assert f"x-forward-errors=on is not possible: {obstacle(spot.place)}" in died.value.said


@pytest.mark.parametrize("where", SPOTS)
def test_elsewhere_it_is_off_by_itself(assigned: Assigned, where: str) -> None:
    spot = SPOTS[where]
    properties = {**spot.properties, "x-forward-errors": "auto"}
    with assigned_l2(assigned, properties, bus=spot.bus) as machine:
        assigned.inject("COMP_TIME")
        machine.qmp.wait_event("STOP", lambda _: True, TOLD_S)
