"""Errors that the kernel tells of by an interface of its own, which a library stands in for."""

from collections.abc import Iterator
from errno import EIO

import pytest

from qap.hw.aer import NON_FATAL_RECEIVED
from qap.lab.assigned import Assigned
from qap.lab.l1 import L1
from qap.oracle.vfio_error import Fate, Provider, Recovery, Setup, Severity, outcome
from qap.verify.kit.assigned_machine import AssignedMachine, assigned_machine
from qap.verify.kit.fake_recovery import FakeRecovery, State

READY = Setup(forwards=True, listens=True)


@pytest.fixture
def recovery(l1: L1) -> FakeRecovery:
    return FakeRecovery.made(l1)


@pytest.fixture
def vm(assigned: Assigned, recovery: FakeRecovery) -> Iterator[AssignedMachine]:
    """A machine whose QEMU has opted in, and whose guest listens."""
    with assigned_machine(assigned, wrapper=recovery.wrapper) as started:
        started.listen()
        yield started


def test_an_error_is_forwarded_once_the_host_has_recovered(
    vm: AssignedMachine, recovery: FakeRecovery
) -> None:
    for state in (State.DETECTED, State.RECOVERING):
        recovery.tell(state, 1)
        expected = outcome(
            Severity.NON_FATAL, Provider.KERNEL, READY, recovery=Recovery[state.name]
        )
        assert expected.fate is Fate.IGNORED
        assert vm.status == "running"
        assert vm.port.received == 0
    recovery.tell(State.RESUMED, 1)
    assert vm.wait("forward")["severity"] == "nonfatal"
    assert vm.port.received & NON_FATAL_RECEIVED
    assert len(vm.told) == 1


def test_an_error_counts_once(vm: AssignedMachine, recovery: FakeRecovery) -> None:
    for _ in range(3):
        recovery.tell(State.RESUMED, 1)
    vm.wait("forward")
    recovery.tell(State.DETECTED, 2, frozen=True)
    vm.wait("stop")
    assert [told["action"] for told in vm.told] == ["forward", "stop"]


def test_a_fatal_error_stops_the_machine(vm: AssignedMachine, recovery: FakeRecovery) -> None:
    recovery.tell(State.DETECTED, 1, frozen=True)
    assert vm.wait("stop")["severity"] == "fatal"
    assert vm.status == "internal-error"
    assert vm.port.received == 0


def test_a_device_that_the_host_loses_stops_the_machine(
    vm: AssignedMachine, recovery: FakeRecovery
) -> None:
    recovery.tell(State.DETECTED, 1)
    recovery.tell(State.LOST, 1)
    vm.wait("stop")
    assert "the host lost the device" in vm.machine.process.tail()
    assert vm.port.received == 0


def test_errors_that_nobody_told_of_stop_the_machine(
    vm: AssignedMachine, recovery: FakeRecovery
) -> None:
    """One of them may have been fatal."""
    recovery.tell(State.RESUMED, 2)
    assert vm.wait("stop")["severity"] == "unknown"


def test_a_kernel_that_can_not_tell_stops_the_machine(
    vm: AssignedMachine, recovery: FakeRecovery
) -> None:
    recovery.fail(EIO)
    assert vm.wait("stop")["severity"] == "unknown"


def test_a_device_that_does_not_forward_does_not_opt_in(
    assigned: Assigned, recovery: FakeRecovery
) -> None:
    off = {"x-forward-errors": "off"}
    with assigned_machine(assigned, off, wrapper=recovery.wrapper) as vm:
        assigned.inject("COMP_TIME")
        vm.wait("stop")
    recovery.l1.check(f"! test -s {recovery.fifo}.log")
