"""Unmodified kernels as AMD SEV-SNP guests, simulated under TCG, and their virtio devices."""

from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.confidential_test import ConfidentialTest


class ConfidentialSnpCpu(ConfidentialTest):
    """Various CPUs and machines.

    :avocado: enable
    :avocado: tags=confidential,arch:x86_64,machine:q35,device:virtio-blk-pci
    """

    kind = ConfidentialKind.SNP
    guest = "x86_64"

    def test_one_cpu(self) -> None:
        self.prove_boot()

    def test_two_cpus(self) -> None:
        """The guest gives its host the state that its second CPU begins with."""
        self.prove_boot(cpus=2)

    def test_pc(self) -> None:
        """:avocado: tags=machine:pc"""
        self.prove_boot(machine="pc", cpus=2)

    def test_epyc(self) -> None:
        self.prove_boot(cpu="EPYC-Milan", cpus=2)


class ConfidentialSnp(ConfidentialTest):
    """
    :avocado: enable
    :avocado: tags=confidential,arch:x86_64,machine:q35
    """

    kind = ConfidentialKind.SNP
    guest = "x86_64"

    def test_devices_in_qemu(self) -> None:
        """:avocado: tags=device:virtio-blk-pci,device:virtio-net-pci,device:virtio-9p-pci"""
        self.prove_devices_in_qemu()

    def test_back_ends(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci,device:vhost-user-blk-pci
        :avocado: tags=device:vhost-user-vsock-pci
        """
        self.prove_back_ends()

    def test_devices_in_qemu_come(self) -> None:
        """:avocado: tags=device:virtio-blk-pci,device:virtio-net-pci,hotplug
        :avocado: tags=device:virtio-9p-pci
        """
        self.prove_devices_in_qemu(hot=True)

    def test_back_ends_come(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci,device:vhost-user-blk-pci,hotplug
        :avocado: tags=device:vhost-user-vsock-pci
        """
        self.prove_back_ends(hot=True)

    def test_virtiofs_comes_and_goes(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci,hotplug"""
        self.prove_virtiofs_comes_and_goes()

    def test_reboots(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        self.prove_reboots(6)

    def test_bookworm_kernel(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci"""
        self.prove_kernel("x86_64-bookworm")

    def test_forky_kernel(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci"""
        self.prove_kernel("x86_64-forky")

    def test_vhost_user_blk_comes_and_goes(self) -> None:
        """:avocado: tags=device:vhost-user-blk-pci,hotplug"""
        self.check(guest="x86_64", device="vhost-user-blk", plug="replug", confidential=self.kind)

    def test_driver_refuses_a_device_without_iommu_platform(self) -> None:
        """:avocado: tags=device:virtio-rng-pci"""
        self.prove_refusal_by_the_driver()

    def test_guest_that_shares_too_little_is_stopped(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        self.prove_enforcement()
