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

    def test_network_of_a_back_end(self) -> None:
        """:avocado: tags=machine:q35,device:virtio-net-pci,hotplug"""
        seen = self.check(guest="x86_64", device="vhost-user-net", plug="replug")
        self.assertIn("guest sent the host 64 KiB over the network, and got them back", seen.said)

    def test_network_of_a_back_end_that_translates(self) -> None:
        """:avocado: tags=machine:q35,device:virtio-net-pci,viommu"""
        where = {"device": "vhost-user-net", "plug": "cold", "viommu": "intel-iommu"}
        self.check(guest="x86_64", features="ACCESS_PLATFORM", **where)

    def test_screen_of_a_back_end(self) -> None:
        """:avocado: tags=machine:q35,device:vhost-user-gpu-pci"""
        seen = self.check(guest="x86_64", device="vhost-user-gpu", plug="cold")
        self.assertIn("guest drew on the screen", seen.said[0])

    def test_cipher_of_a_back_end_that_translates(self) -> None:
        """:avocado: tags=machine:q35,device:virtio-crypto-pci,viommu,hotplug"""
        where = {"device": "vhost-user-crypto", "plug": "hot", "viommu": "amd-iommu"}
        seen = self.check(guest="x86_64", features="ACCESS_PLATFORM", **where)
        self.assertIn("the device deciphered the test vector of FIPS 197", seen.said)

    def test_disk_of_a_scsi_back_end_that_translates(self) -> None:
        """:avocado: tags=machine:q35,device:vhost-user-scsi-pci,viommu,hotplug"""
        where = {"device": "vhost-user-scsi", "plug": "hot", "viommu": "intel-iommu"}
        seen = self.check(guest="x86_64", features="ACCESS_PLATFORM", busy=True, **where)
        self.assertIn("the guest read a disk meanwhile", seen.said[-1])

    def test_key_that_a_back_end_presses(self) -> None:
        """:avocado: tags=machine:microvm,device:vhost-user-input"""
        seen = self.check(guest="x86_64", machine="microvm", device="vhost-user-input", plug="cold")
        self.assertEqual(seen.said, ["guest got the key A"])

    def test_sound_that_a_back_end_hears(self) -> None:
        """:avocado: tags=machine:q35,device:vhost-user-snd-pci,hotplug"""
        seen = self.check(guest="x86_64", device="vhost-user-snd", plug="replug")
        self.assertIn("its back-end heard them", seen.said[1])

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


class BackendKilled(GuestTest):
    """A back-end is killed while its guest has the device, and started again.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,hotplug
    """

    def test_disk_in_use(self) -> None:
        """:avocado: tags=device:vhost-user-blk-pci"""
        seen = self.check(guest="x86_64", device="vhost-user-blk", plug="hot", kill_backend="busy")
        self.assertEqual((seen.io, seen.again), ("waits", True))

    def test_disk_of_scsi_in_use(self) -> None:
        """:avocado: tags=device:vhost-user-scsi-pci"""
        seen = self.check(guest="x86_64", device="vhost-user-scsi", plug="hot", kill_backend="busy")
        self.assertEqual((seen.io, seen.again), ("waits", True))

    def test_random_numbers_from_the_start(self) -> None:
        """:avocado: tags=device:vhost-user-rng-pci"""
        seen = self.check(guest="x86_64", device="vhost-user-rng", plug="cold", kill_backend="idle")
        self.assertEqual((seen.io, seen.again), ("waits", True))

    def test_virtiofs_without_a_request(self) -> None:
        """QEMU does not connect again: another device takes its place.

        :avocado: tags=device:vhost-user-fs-pci
        """
        seen = self.check(guest="x86_64", device="vhost-user-fs", plug="hot", kill_backend="idle")
        self.assertEqual((seen.io, seen.again), ("", True))

    def test_virtiofs_that_answers_in_its_place(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci"""
        where = {"guest": "x86_64", "device": "vhost-user-fs", "plug": "hot"}
        seen = self.check(kill_backend="busy", fail_requests=True, **where)
        self.assertEqual((seen.io, seen.again), ("fails", True))


class Migrates(GuestTest):
    """A guest migrates to a second QEMU while it uses its device.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,migration
    """

    def test_disk_behind_an_intel_iommu(self) -> None:
        """:avocado: tags=device:virtio-blk-pci,viommu,hotplug"""
        where = {"device": "virtio-blk", "plug": "hot", "viommu": "intel-iommu"}
        seen = self.check(guest="x86_64", migrate=True, **where)
        self.assertTrue(seen.migrated)

    def test_virtiofs(self) -> None:
        """Each QEMU has a virtiofsd of its own.

        :avocado: tags=device:vhost-user-fs-pci
        """
        seen = self.check(guest="x86_64", device="vhost-user-fs", plug="cold", migrate=True)
        self.assertTrue(seen.migrated)

    def test_disk_of_scsi(self) -> None:
        """Its back-end logs what it writes.

        :avocado: tags=device:vhost-user-scsi-pci,hotplug
        """
        seen = self.check(guest="x86_64", device="vhost-user-scsi", plug="hot", migrate=True)
        self.assertTrue(seen.migrated)

    def test_network_that_is_translated(self) -> None:
        """:avocado: tags=device:virtio-net-pci,viommu,hotplug"""
        where = {"device": "vhost-user-net", "plug": "hot", "viommu": "intel-iommu"}
        seen = self.check(guest="x86_64", features="ACCESS_PLATFORM", migrate=True, **where)
        self.assertTrue(seen.migrated)

    def test_back_end_that_can_not_migrate(self) -> None:
        """:avocado: tags=device:vhost-user-rng-pci,hotplug"""
        seen = self.check(guest="x86_64", device="vhost-user-rng", plug="hot", migrate=True)
        self.assertIn("non-migratable device", seen.migration_error)
        self.assertIn("the VM runs on where it is", seen.said)


class MigratesCcw(GuestTest):
    """The same on channel I/O.

    :avocado: enable
    :avocado: tags=arch:s390x,machine:s390-ccw-virtio,migration
    """

    def test_disk(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw,hotplug"""
        seen = self.check(guest="s390x", device="virtio-blk", plug="hot", migrate=True)
        self.assertTrue(seen.migrated)
