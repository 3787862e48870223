"""A guest's driver of an assigned device recovers from an error of it."""

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.lab.assigned import Assigned
from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.machine import catalog
from qap.machine.guest.boot import Boot
from qap.machine.guest.console import Console
from qap.machine.spec import Spec
from qap.verify.kit.assigned_machine import EVENT, PORT, TOLD_S
from qap.verify.kit.guest_test import GuestTest

# A CPU that an emulated CPU emulates.
BOOTED_S = 900.0
COMMAND_S = 300.0
NET = "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0"
# The link takes its time to come up.
PING = "for _ in 1 2 3 4 5 6 7 8; do ping -c 1 -W 5 10.0.2.2 && exit; done; exit 1"


class AssignedNic(GuestTest):
    """A network card of L1, with a guest in L1 that drives it.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vfio-pci,nightly
    """

    timeout = 1800

    def test_traffic_resumes_after_an_error(self) -> None:
        build, guest = Build.under_test(), catalog.guest("x86_64")
        try:
            with L1(build) as l1:
                nic = Assigned.behind(l1, "nic", "1d.0")
                spec = Spec(
                    machine=guest.machine,
                    cpu=guest.cpu,
                    memory=512,
                    devices=[PORT, nic.device("port0")],
                    boot=Boot(guest, ("e1000e",)),
                )
                with L2(build.path("qemu-system-x86_64"), spec, l1=l1) as machine:
                    console = machine.console
                    self.log.info("%s booted", console.wait_ready(BOOTED_S))
                    console.check(NET, COMMAND_S)
                    console.check(PING, COMMAND_S)
                    # QEMU's e1000e does not send messages of its own errors.
                    nic.inject("COMP_TIME", port=True)
                    told = machine.qmp.wait_event(EVENT, lambda _: True, TOLD_S)
                    self.assertEqual(told["action"], "forward")
                    self.recovered(console)
                    console.check(PING, COMMAND_S)
        except (QapError, TimeoutError) as exc:
            self.fail("\n".join([str(exc), getattr(exc, "detail", "")]))

    def recovered(self, console: Console) -> None:
        """Wait until the guest's kernel says that the driver has recovered."""
        said = "dmesg | grep -q 'AER: device recovery successful'"
        console.check(f'timeout {COMMAND_S:g} await "{said}"', COMMAND_S)
