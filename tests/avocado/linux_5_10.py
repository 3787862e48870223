"""A kernel whose drivers check configuration before they write the features that they accept."""

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.machine import catalog
from qap.machine.device import Device
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest

NET = 1
MTU_BIT = 3
# In the other byte order it is 1, which virtio-net takes for too small: then it gives the bit back.
MTU = 256


class Linux510(GuestTest):
    """Linux 5.10 with the order of its steps from before 5.10.75, in a big-endian guest.

    :avocado: enable
    :avocado: tags=arch:s390x,machine:s390-ccw-virtio,endianness,nightly
    """

    # The kernel is compiled first if it isn't in the cache.
    timeout = 3600

    def test_ccw_network_keeps_its_mtu(self) -> None:
        """:avocado: tags=device:virtio-net-ccw"""
        self.keeps_mtu({"driver": "virtio-net-ccw"})

    def test_pci_network_keeps_its_mtu(self) -> None:
        """:avocado: tags=device:virtio-net-pci"""
        self.keeps_mtu({"driver": "virtio-net-pci", "disable-legacy": "on"})

    def keeps_mtu(self, device: Device) -> None:
        """Boot with a network device, and compare what the driver accepts and has set."""
        build, guest = Build.under_test(), catalog.guest("s390x-bullseye")
        spec = Spec(
            machine=guest.machine,
            cpu=guest.cpu,
            devices=[{**device, "netdev": "net", "host_mtu": MTU}],
            extra=["-netdev", "user,id=net,restrict=on"],
            boot=Boot(guest),
        )
        try:
            with Machine(build.path("qemu-system-s390x"), spec) as machine:
                console = machine.console
                self.log.info("%s booted", console.wait_ready(guest.boot_silence))
                name = io_checks.find(console, NET)
                accepted = MTU_BIT in io_checks.negotiated(console, name)
                mtu = int(console.check(f"cat /sys/bus/virtio/devices/{name}/net/*/mtu"))
        except (QapError, TimeoutError) as exc:
            self.fail("\n".join([str(exc), getattr(exc, "detail", "")]))
        self.assertEqual((accepted, mtu), (True, MTU), "VIRTIO_NET_F_MTU accepted, and the MTU")
