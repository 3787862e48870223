"""Devices of the catalogue in a guest, beside those with tests of their own."""

from qap.verify.kit.guest_test import GuestTest


class Catalogue(GuestTest):
    """A guest does something with each that shows that it works.

    :avocado: enable
    :avocado: tags=arch:x86_64
    """

    def test_stream_behind_an_amd_iommu(self) -> None:
        """:avocado: tags=machine:q35,device:vhost-user-vsock-pci,viommu,hotplug"""
        where = {"device": "vhost-user-vsock", "plug": "hot", "viommu": "amd-iommu"}
        self.check(guest="x86_64", features="ACCESS_PLATFORM", **where)

    def test_input_event_on_mmio(self) -> None:
        """:avocado: tags=machine:microvm,device:virtio-keyboard-device"""
        self.check(guest="x86_64", machine="microvm", device="virtio-keyboard", plug="cold")

    def test_queues_of_a_scsi_controller_behind_a_pxb(self) -> None:
        """:avocado: tags=machine:q35,device:virtio-scsi-pci,viommu,hotplug"""
        where = {"device": "virtio-scsi", "plug": "hot", "viommu": "intel-iommu", "behind": "pxb"}
        options = {"queues": 2, "iothread": True, "packed": True, "busy": True}
        seen = self.check(guest="x86_64", **options, **where)
        self.assertIn("guest uses 2 queues", seen.said)
        self.assertIn("the guest read a disk meanwhile", seen.said[-1])
