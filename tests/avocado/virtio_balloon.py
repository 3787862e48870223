"""Linux's virtio-balloon, which never accepts ACCESS_PLATFORM."""

from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.guest_test import GuestTest

FAILS = "QMP balloon fails: "


class VirtioBalloon(GuestTest):
    """The device plugs, its driver fails, and the user of the balloon hears of it.

    :avocado: enable
    :avocado: tags=device:virtio-balloon
    """

    def fails(self, **fields: object) -> None:
        said = self.check(device="virtio-balloon", **fields).said
        self.assertTrue(any(line.startswith(FAILS) for line in said), said)

    def test_pci_cold(self) -> None:
        """:avocado: tags=arch:x86_64,machine:q35"""
        self.fails(guest="x86_64", plug="cold")

    def test_pci_confidential(self) -> None:
        """Its kernel gives the device up before QEMU refuses the driver.

        :avocado: tags=arch:x86_64,machine:q35,confidential
        """
        self.fails(guest="x86_64", plug="cold", confidential=ConfidentialKind.SEV)

    def test_ccw_hot(self) -> None:
        """:avocado: tags=arch:s390x,machine:s390-ccw-virtio,hotplug"""
        self.fails(guest="s390x", plug="hot")

    def test_pci_without_the_bit(self) -> None:
        """:avocado: tags=arch:x86_64,machine:q35,hotplug"""
        self.check(guest="x86_64", device="virtio-balloon", plug="replug", iommu_platform=False)
