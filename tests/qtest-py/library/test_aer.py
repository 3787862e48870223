"""Advanced Error Reporting as a driver uses it."""

import pytest

from qap.hw.aer import (
    COMPLETION_TIMEOUT,
    DATA_LINK_PROTOCOL,
    FATAL_RECEIVED,
    MULTIPLE_UNCORRECTABLE_RECEIVED,
    NON_FATAL_RECEIVED,
    REPORT_FATAL,
    UNCORRECTABLE_RECEIVED,
    AerFunction,
    AerPort,
)
from qap.hw.ecam import Ecam
from qap.hw.pci import Bdf
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.slot import root_port

NET: Device = {"driver": "virtio-net-pci", "id": "dut", "bus": "port0", "aer": True}
VIRTIO = 0x1AF4


def opened(machine: Machine) -> tuple[AerFunction, AerPort]:
    """The device, and the port that it is behind."""
    bus = PciBus(machine.qtest)
    functions = {function.bdf: function for function in bus.scan()}
    ecam = Ecam.open(functions[Bdf(0, 0, 0)])
    return AerFunction(ecam, bus.find(VIRTIO)), AerPort(ecam, root_port(bus))


@pytest.mark.parametrize(
    ("error", "bit", "received"),
    [
        ("COMP_TIME", COMPLETION_TIMEOUT, NON_FATAL_RECEIVED),
        ("DLP", DATA_LINK_PROTOCOL, FATAL_RECEIVED),
    ],
)
def test_a_port_that_listens_is_told_who_has_an_error(
    lab: Lab, error: str, bit: int, received: int
) -> None:
    machine = lab.machine(NET, qtest=True)
    device, port = opened(machine)
    device.report()
    port.listen()
    machine.qmp.hmp(f"pcie_aer_inject_error dut {error}")
    assert device.status == bit
    assert port.received & ~0x10 == UNCORRECTABLE_RECEIVED | received
    assert port.source == device.bdf
    machine.qmp.hmp(f"pcie_aer_inject_error dut {error}")
    assert port.acknowledge() & MULTIPLE_UNCORRECTABLE_RECEIVED
    device.clear()
    assert (device.status, port.received) == (0, 0)


def test_a_port_is_not_told_of_what_is_not_reported(lab: Lab) -> None:
    machine = lab.machine(NET, qtest=True)
    device, port = opened(machine)
    device.report(REPORT_FATAL)
    port.listen()
    machine.qmp.hmp("pcie_aer_inject_error dut COMP_TIME")
    assert device.status == COMPLETION_TIMEOUT
    assert port.received == 0
