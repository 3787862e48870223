"""A disk of a Linux guest behind bridges to conventional PCI, whose interrupts are remapped."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from qap.fork.build import Build
from qap.machine import catalog
from qap.machine.catalog import device_types, viommus
from qap.machine.device import Device
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest

PORT: Device = {"driver": "pcie-root-port", "id": "port0", "chassis": 1, "slot": 1}
TO_PCI: Device = {"driver": "pcie-pci-bridge", "id": "outer", "bus": "port0"}
NESTED: Device = {
    "driver": "pci-bridge",
    "id": "inner",
    "bus": "outer",
    "addr": "0x2",
    "chassis_nr": 7,
}


class NestedBridges(GuestTest):
    """Linux lets the buses from the outer bridge's to the disk's interrupt.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:virtio-blk-pci,viommu
    """

    def drive(self, viommu: str, between: Sequence[Device], **properties: str) -> None:
        """Boot with a disk behind the last of these bridges, read it and write it."""
        guest, kind, iommu = (
            catalog.guest("x86_64"),
            device_types()["virtio-blk"],
            viommus()[viommu],
        )
        blk = {"driver": "virtio-blk-pci", "drive": "disk0", "disable-legacy": "on"}
        place = {"bus": between[-1]["id"], "addr": "0x3"}
        with tempfile.TemporaryDirectory(prefix="qap-") as folder:
            host_data = io_checks.HostData(Path(folder))
            host_data.prepare()
            spec = Spec(
                machine="q35",
                cpu=guest.cpu,
                blockdevs=[f"driver=file,node-name=disk0,filename={host_data.image}"],
                devices=[
                    {**(iommu.device or {}), "intremap": "on", **properties},
                    *between,
                    {**blk, **place, "iommu_platform": True},
                ],
                boot=Boot(guest, (*kind.modules, *iommu.modules), iommu.append),
            )
            with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as machine:
                try:
                    machine.boot()
                except TimeoutError as hangs:
                    self.fail(f"{hangs}\n{machine.process.tail()}")
                name = io_checks.find(machine.console, kind.device_id)
                self.log.info(io_checks.disk(machine.console, host_data, name))
                remapped = "grep -m 1 'virtio.*-req' /proc/interrupts | grep -E 'IR-|AMD-Vi'"
                self.log.info(machine.console.check(remapped))

    def test_intel(self) -> None:
        self.drive("intel-iommu", [PORT, TO_PCI, NESTED])

    def test_intel_one_bridge(self) -> None:
        self.drive("intel-iommu", [PORT, TO_PCI])

    def test_intel_x2apic(self) -> None:
        """Entries of the table name CPUs by 32 bits."""
        self.drive("intel-iommu", [PORT, TO_PCI, NESTED], eim="on")

    def test_amd(self) -> None:
        self.drive("amd-iommu", [PORT, TO_PCI, NESTED])
