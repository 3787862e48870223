"""A device in QEMU itself, behind a vIOMMU, with iommu_platform=on."""

from qap.verify.kit.guest_test import GuestTest


class VirtioRngPci(GuestTest):
    """A device in QEMU itself can translate, so it plugs and serves behind a vIOMMU.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:virtio-rng-pci,viommu
    """

    def test_intel_hot(self) -> None:
        """:avocado: tags=hotplug"""
        self.check(guest="x86_64", device="virtio-rng", plug="hot", viommu="intel-iommu")

    def test_virtio_iommu_cold(self) -> None:
        self.check(guest="x86_64", device="virtio-rng", plug="cold", viommu="virtio-iommu")

    def test_amd_iommu_cold(self) -> None:
        """Behind a root port, whose bus gets its number from the firmware."""
        self.check(guest="x86_64", device="virtio-rng", plug="cold", viommu="amd-iommu")
