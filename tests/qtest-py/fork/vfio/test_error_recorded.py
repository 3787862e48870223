"""An error of a PCI Express device is recorded, and nothing else changes."""

import pytest

from qap.hw.pci import CAPABILITY_EXPRESS
from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.verify.kit.lab import Lab

NET: Device = {"driver": "virtio-net-pci", "id": "dut", "bus": "port0", "aer": True}
VIRTIO = 0x1AF4
# PCIe 7.5.3.6.
LINK_CAPABILITIES = 0x0C


@pytest.mark.parametrize("error", ["COMP_TIME", "DLP"])
def test_link_capabilities_stay(lab: Lab, error: str) -> None:
    machine = lab.machine(NET, qtest=True)
    function = PciBus(machine.qtest).find(VIRTIO)
    link = function.capability(CAPABILITY_EXPRESS).offset + LINK_CAPABILITIES
    before = function.config_read(link, 4)
    assert machine.qmp.hmp(f"pcie_aer_inject_error dut {error}").startswith("OK")
    assert function.config_read(link, 4) == before
