"""AMD SEV guests, simulated under TCG, that OVMF boots: what SEV guests on hardware boot with.

OVMF shares buffers for its own devices, and takes them back, by its page tables.
"""

from qap.host.errors import MissingError
from qap.machine.guest import traffic
from qap.machine.guest.ovmf import Ovmf
from qap.machine.machine import Machine
from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.confidential_machine import GuestOptions
from qap.verify.kit.confidential_test import BLOCK_MODULES, ConfidentialTest

REBOOTS = 2


class ConfidentialOvmf(ConfidentialTest):
    """
    :avocado: enable
    :avocado: tags=confidential,arch:x86_64,machine:q35,firmware:ovmf
    """

    kind = ConfidentialKind.SEV
    guest = "x86_64"

    def use(self, image: Ovmf) -> None:
        """Boot with this image, or cancel if it is not installed."""
        try:
            self.firmware = image.options
        except MissingError as missing:
            self.cancel(str(missing))

    def prove_disk_and_network(self, machine: Machine) -> None:
        """The kernel was booted by OVMF, and its devices carry data."""
        machine.console.check("test -d /sys/firmware/efi")
        self.prove_disk(machine)
        traffic.over_network(machine.console)

    def boots(self, image: Ovmf) -> None:
        """OVMF boots a kernel with two CPUs, and no device meets private memory, before or after.

        OVMF's own drivers drive the disk and the card first.
        """
        self.use(image)
        disk, blockdevs = self.disk
        card = self.device("virtio-net", id="net0", netdev="net")
        options: GuestOptions = {
            "cpus": 2,
            "blockdevs": blockdevs,
            "extra": ["-netdev", "user,id=net"],
        }
        with self.booted([disk, card], [*BLOCK_MODULES, "virtio_net"], **options) as machine:
            self.prove_disk_and_network(machine)

    def test_disk_and_network(self) -> None:
        """:avocado: tags=device:virtio-blk-pci,device:virtio-net-pci"""
        self.boots(Ovmf.SMALL)

    def test_image_whose_first_phases_have_32_bits(self) -> None:
        """:avocado: tags=device:virtio-blk-pci,device:virtio-net-pci"""
        self.boots(Ovmf.LARGE)

    def test_reboots(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        self.use(Ovmf.LARGE)
        self.prove_reboots(REBOOTS)

    def test_back_ends(self) -> None:
        """OVMF has driven the file system and the disk before the kernel does.

        :avocado: tags=device:vhost-user-fs-pci,device:vhost-user-blk-pci
        :avocado: tags=device:vhost-user-vsock-pci
        """
        self.use(Ovmf.LARGE)
        self.prove_back_ends()
