"""A guest moves between stock QEMU and the fork: docs/upgrade.md has a table of driven devices."""

from dataclasses import replace

from qap.fork.build import Build
from qap.verify.kit.guest_test import GuestTest

UNDER_TEST = Build.under_test()
STOCK, FORK = replace(UNDER_TEST, is_base=True), replace(UNDER_TEST, is_base=False)


class Upgrade(GuestTest):
    """The newest machine type, whose guest uses its device while it moves.

    Stock QEMU may harm a guest behind a vIOMMU (ring/0028) and one with a hot-plugged device
    (tcg/0001): so there is no vIOMMU, and what moves from stock QEMU is cold-plugged.

    :avocado: enable
    :avocado: tags=migration
    """

    def to_fork(self, **fields: object) -> None:
        self.moves(STOCK, FORK, **fields)

    def to_stock(self, **fields: object) -> None:
        self.moves(FORK, STOCK, **fields)

    def test_driver_that_accepted_the_bit(self) -> None:
        """:avocado: tags=arch:x86_64,machine:q35,device:virtio-blk-pci"""
        self.to_fork(guest="x86_64", device="virtio-blk", plug="cold")

    def test_driver_that_accepted_the_bit_moves_back(self) -> None:
        """:avocado: tags=arch:x86_64,machine:q35,device:virtio-blk-pci,hotplug"""
        self.to_stock(guest="x86_64", device="virtio-blk", plug="hot")

    def test_driver_without_the_bit(self) -> None:
        """:avocado: tags=arch:x86_64,machine:q35,device:virtio-blk-pci"""
        self.to_fork(guest="x86_64", device="virtio-blk", plug="cold", iommu_platform=False)

    def test_channel_driver_that_accepted_the_bit(self) -> None:
        """:avocado: tags=arch:s390x,machine:s390-ccw-virtio,device:virtio-blk-ccw"""
        self.to_fork(guest="s390x", device="virtio-blk", plug="cold")

    def test_channel_driver_that_accepted_the_bit_moves_back(self) -> None:
        """:avocado: tags=arch:s390x,machine:s390-ccw-virtio,device:virtio-blk-ccw,hotplug"""
        self.to_stock(guest="s390x", device="virtio-blk", plug="hot")
