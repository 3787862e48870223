"""Simulated Secure Execution guests: unmodified kernels, CCW devices, private memory."""

from qap.machine.qmp import QmpRefused
from qap.oracle.fence import REFUSAL_PHRASE
from qap.scenario.confidential import VIOLATION
from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.confidential_test import PLUGGED_S, ConfidentialTest
from qap.vhost_user.backends import backend


class ConfidentialSe(ConfidentialTest):
    """
    :avocado: enable
    :avocado: tags=confidential,arch:s390x,machine:s390-ccw-virtio
    """

    kind = ConfidentialKind.SE
    guest = "s390x"

    def test_devices_in_qemu(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw,device:virtio-net-ccw,device:virtio-9p-ccw"""
        self.prove_devices_in_qemu()

    def test_back_ends(self) -> None:
        """:avocado: tags=device:vhost-user-fs-ccw,device:vhost-user-blk-ccw
        :avocado: tags=device:vhost-user-vsock-ccw
        """
        self.prove_back_ends()

    def test_virtiofs_comes_and_goes(self) -> None:
        """:avocado: tags=device:vhost-user-fs-ccw,hotplug"""
        self.prove_virtiofs_comes_and_goes()

    def test_vhost_user_blk_comes_and_goes(self) -> None:
        """:avocado: tags=device:vhost-user-blk-ccw,hotplug"""
        self.check(guest="s390x", device="vhost-user-blk", plug="replug", confidential=self.kind)

    def test_reboots(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw"""
        self.prove_reboots(10)

    def test_forky_kernel(self) -> None:
        """:avocado: tags=device:vhost-user-fs-ccw"""
        self.prove_kernel("s390x-forky")

    def test_driver_refuses_a_device_without_iommu_platform(self) -> None:
        """:avocado: tags=device:virtio-rng-ccw"""
        self.prove_refusal_by_the_driver()

    def test_guest_that_shares_too_little_is_stopped(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw"""
        self.prove_enforcement()

    def test_guest_that_shares_too_little_goes_on_where_that_is_reported(self) -> None:
        """:avocado: tags=device:virtio-blk-ccw"""
        self.prove_report()

    def test_pci(self) -> None:
        """Linux shares no memory with PCI functions in such a guest, as they are translated.

        So none works: vhost-user is refused, and devices in QEMU find private rings.

        :avocado: tags=device:virtio-rng-pci,device:vhost-user-fs-pci
        """
        rng = {"driver": "virtio-rng-pci", "id": "rng0"}
        with (
            backend(self.folder / "fs.sock", "vhost-user-fs", access_platform=False) as behind,
            self.started(self.spec([rng], ["virtio_rng"])) as machine,
        ):
            seen = machine.qmp.wait_event(VIOLATION, lambda data: True, PLUGGED_S)
            self.assertEqual((seen["device"], seen["action"]), ("rng0", "error"))
            machine.add_socket("fs", behind.path)
            fs = {"driver": "vhost-user-fs-pci", "chardev": "fs", "tag": "share"}
            with self.assertRaises(QmpRefused) as refused:
                machine.plug({**fs, "iommu_platform": True})
            self.assertIn(REFUSAL_PHRASE, refused.exception.said)
