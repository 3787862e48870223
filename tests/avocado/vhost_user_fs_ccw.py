"""virtiofs over CCW, the device of the mailing list thread, with iommu_platform=on."""

from qap.verify.kit.guest_test import GuestTest


class VhostUserFsCcw(GuestTest):
    """A big-endian guest, with Debian's s390x virtiofsd under qemu-user and a relay.

    :avocado: enable
    :avocado: tags=arch:s390x,machine:s390-ccw-virtio,device:vhost-user-fs-ccw
    """

    def test_cold(self) -> None:
        self.check(guest="s390x", device="vhost-user-fs", plug="cold")

    def test_hot(self) -> None:
        """:avocado: tags=hotplug"""
        self.check(guest="s390x", device="vhost-user-fs", plug="hot")
