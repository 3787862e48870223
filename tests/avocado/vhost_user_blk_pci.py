"""A disk from the real qemu-storage-daemon over vhost-user, with iommu_platform=on."""

from qap.verify.kit.guest_test import GuestTest


class VhostUserBlkPci(GuestTest):
    """No IOMMU: the device plugs; what the guest reads and writes is in the image.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-blk-pci
    """

    def test_cold(self) -> None:
        self.check(guest="x86_64", device="vhost-user-blk", plug="cold")

    def test_hot(self) -> None:
        """:avocado: tags=hotplug"""
        self.check(guest="x86_64", device="vhost-user-blk", plug="hot")
