"""A machine type from before errors were forwarded stops at each, as it always has."""

import pytest

from qap.lab.assigned import Assigned
from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.machine.spec import Spec

STOPPED_S = 20.0
PORT = {"driver": "pcie-root-port", "id": "port0", "chassis": 1}


def l2(l1: L1, assigned: Assigned, machine: str) -> L2:
    """A QEMU in L1 with the device behind a root port."""
    devices = [PORT, assigned.device("port0")]
    spec = Spec(machine=machine, accel="qtest", memory=64, devices=devices, qtest=True)
    return L2(l1.build.path("qemu-system-x86_64"), spec, l1=l1)


@pytest.mark.parametrize("error", ["COMP_TIME", "DLP"])
@pytest.mark.parametrize("port", [False, True], ids=["device", "port"])
def test_an_error_stops_the_machine(l1: L1, assigned: Assigned, error: str, port: bool) -> None:
    with l2(l1, assigned, "pc-q35-9.2") as machine:
        assigned.inject(error, port=port)
        machine.qmp.wait_event("STOP", lambda _: True, STOPPED_S)
        assert machine.qmp.execute("query-status")["status"] == "internal-error"
        assert "Unrecoverable error detected" in machine.process.tail()


def test_a_corrected_error_does_not_concern_it(l1: L1, assigned: Assigned) -> None:
    with l2(l1, assigned, "pc-q35-9.2") as machine:
        assigned.inject("RCVR")
        seen = f"dmesg | grep -q 'Correctable error message received from {assigned.address}'"
        l1.check(f'await "{seen}"', STOPPED_S)
        assert machine.alive
        assert "error" not in machine.process.tail()
