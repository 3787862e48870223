"""Errors that stop the machine."""

import pytest

from qap.hw.pci_bus import Slot
from qap.lab.assigned import Assigned
from qap.lab.l1 import L1
from qap.machine.machine import Machine
from qap.oracle.vfio_error import Reading, severity
from qap.verify.kit.assigned_machine import EVENT, TOLD_S, assigned_l2, assigned_machine

# Before errors were forwarded.
OLD = "pc-q35-9.2"
STATUS_4 = 1 << 4
DEFAULT_SEVERITY = 0x0046_2030

# An error, whether the port has it, and what can be read then.
ERRORS = {
    "not fatal": ("COMP_TIME", False, Reading(0, DEFAULT_SEVERITY)),
    "fatal": ("DLP", False, Reading(STATUS_4, DEFAULT_SEVERITY, reset=True)),
    "not fatal, of the port": ("COMP_TIME", True, Reading(0, DEFAULT_SEVERITY)),
    "fatal, of the port": ("DLP", True, Reading(0, DEFAULT_SEVERITY, reset=True)),
}
NAMED = {"non-fatal": "nonfatal", "fatal": "fatal", "unclear": "unknown"}


def is_stopped(machine: Machine) -> bool:
    return bool(machine.qmp.execute("query-status")["status"] == "internal-error")


@pytest.mark.parametrize("error", ERRORS)
def test_an_old_machine_type_stops_at_each(assigned: Assigned, error: str) -> None:
    name, port, _ = ERRORS[error]
    with assigned_l2(assigned, machine=OLD) as machine:
        assigned.inject(name, port=port)
        machine.qmp.wait_event("STOP", lambda _: True, TOLD_S)
        assert is_stopped(machine)
        assert "Unrecoverable error detected" in machine.process.tail()


def test_a_corrected_error_does_not_concern_it(l1: L1, assigned: Assigned) -> None:
    with assigned_l2(assigned) as machine:
        assigned.inject("RCVR")
        seen = f"dmesg | grep -q 'Correctable error message received from {assigned.address}'"
        l1.check(f'timeout {TOLD_S:g} await "{seen}"')
        assert machine.alive
        assert "error" not in machine.process.tail()


@pytest.mark.parametrize("error", ERRORS)
def test_an_event_says_what_it_was(assigned: Assigned, error: str) -> None:
    name, port, reading = ERRORS[error]
    with assigned_l2(assigned, machine=OLD) as machine:
        assigned.inject(name, port=port)
        told = machine.qmp.wait_event(EVENT, lambda _: True, TOLD_S)
        assert told["severity"] == NAMED[severity(reading)]
        assert told["status"] & DEFAULT_SEVERITY == reading.status
        assert (told["device-id"], told["action"]) == ("dut", "stop")
        assert told["qom-path"] == "/machine/peripheral/dut"
        assert is_stopped(machine)


@pytest.mark.parametrize("error", ["fatal", "fatal, of the port"])
def test_a_fatal_one_stops_it_and_tells_the_guest_nothing(assigned: Assigned, error: str) -> None:
    name, port, reading = ERRORS[error]
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject(name, port=port)
        assert vm.wait("stop")["severity"] == NAMED[severity(reading)]
        assert is_stopped(vm.machine)
        assert (vm.device.status, vm.port.received) == (0, 0)


@pytest.mark.parametrize("deaf", ["device", "port", "interrupt", "mask"])
def test_a_guest_that_does_not_listen_is_stopped(assigned: Assigned, deaf: str) -> None:
    with assigned_machine(assigned) as vm:
        vm.listen()
        match deaf:
            case "device":
                vm.device.report(0)
            case "port":
                vm.port.report(0)
            case "interrupt":
                vm.port.listen(0)
            case _:
                vm.device.mask_all()
        assigned.inject("COMP_TIME")
        assert vm.wait("stop")["severity"] == "nonfatal"
        assert is_stopped(vm.machine)
        assert "the guest does not listen" in vm.machine.process.tail()
        assert vm.port.received == 0


def test_a_device_that_does_not_forward_stops_it(assigned: Assigned) -> None:
    with assigned_machine(assigned, {"x-forward-errors": "off"}) as vm:
        vm.listen()
        assigned.inject("COMP_TIME")
        vm.wait("stop")
        assert vm.port.received == 0


@pytest.mark.parametrize("error", ["COMP_TIME", "DLP"])
def test_a_device_that_is_unplugged_meanwhile_is_forgotten(assigned: Assigned, error: str) -> None:
    """QEMU reads for a tenth of a second and more. It ends that before it closes the group."""
    with assigned_machine(assigned) as vm:
        vm.listen()
        assigned.inject(error)
        vm.machine.qmp.execute("device_del", id="dut")
        Slot(vm.port.function).power(False)
        vm.wait_unplugged()
        vm.machine.plug(assigned.device("port0"))
        assert vm.machine.process.alive
