"""virtiofs over PCI with the real virtiofsd and iommu_platform=on."""

from qap.verify.kit.guest_test import GuestTest


class VhostUserFsPci(GuestTest):
    """No IOMMU: the device plugs, and guest and host see the same files.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-fs-pci
    """

    def test_cold(self) -> None:
        self.check(guest="x86_64", device="vhost-user-fs", plug="cold")

    def test_hot(self) -> None:
        """:avocado: tags=hotplug"""
        self.check(guest="x86_64", device="vhost-user-fs", plug="hot")

    def test_replug(self) -> None:
        """Hot-plug, unplug, and hot-plug again with a new virtiofsd.

        :avocado: tags=hotplug
        """
        self.check(guest="x86_64", device="vhost-user-fs", plug="replug")

    def test_without_iommu_platform(self) -> None:
        self.check(guest="x86_64", device="vhost-user-fs", plug="cold", iommu_platform=False)


class VhostUserFsPciViommu(GuestTest):
    """Behind a vIOMMU, as virtiofsd can't translate: refused, hot and cold, in either order.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-fs-pci,viommu
    """

    def refused(self, viommu: str, **scenario: str) -> None:
        self.check(guest="x86_64", device="vhost-user-fs", viommu=viommu, **scenario)

    def test_intel_hot(self) -> None:
        """:avocado: tags=hotplug"""
        self.refused("intel-iommu", plug="hot")

    def test_intel_cold_before(self) -> None:
        self.refused("intel-iommu", plug="cold", order="before")

    def test_intel_cold_after(self) -> None:
        self.refused("intel-iommu", plug="cold", order="after")

    def test_virtio_iommu_hot(self) -> None:
        """:avocado: tags=hotplug"""
        self.refused("virtio-iommu", plug="hot")

    def test_virtio_iommu_cold_before(self) -> None:
        self.refused("virtio-iommu", plug="cold", order="before")

    def test_virtio_iommu_cold_after(self) -> None:
        self.refused("virtio-iommu", plug="cold", order="after")

    def test_bypassed(self) -> None:
        """On a root bus that bypasses the vIOMMU the device is not translated and works."""
        bypassed = {"viommu": "intel-iommu", "order": "after", "bypass": True}
        self.check(guest="x86_64", device="vhost-user-fs", plug="cold", **bypassed)
