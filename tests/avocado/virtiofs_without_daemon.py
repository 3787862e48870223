"""Guests whose virtiofsd dies or is unplugged under them, and which are given another one."""

import hashlib
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from qap.fork.build import Build
from qap.machine import catalog
from qap.machine.catalog import machine_types
from qap.machine.device import Device
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest
from qap.verify.kit.slot import NATIVE
from qap.vhost_user.programs import BackendProcess, virtiofsd

FS = 26
# glibc's words for EIO, and for the error of a mount that the device did not answer well.
EIO = "Input/output error"
REFUSED = "connection refused"
ENDS_S = 20.0
# The shell opens the file, so it is open when this returns, and a process keeps it open.
HOLD = "exec 9</mnt/one/file; sleep 1000 <&9 & echo $! >/tmp/holder; exec 9<&-"
# Linux blinks a slot's light for 5 s before it lets a device go (PCIe hot-plug).
UNPLUGGED_S = 30.0


class WithoutDaemon(GuestTest):
    """A virtiofs is mounted; its daemon ends; it is unplugged, and another one is mounted.

    :avocado: disable

    Attributes:
        guest: a name of configs/guests.toml.
        machine: a machine type other than the guest's.
        extra: as in Spec.
        cold: the first device is there from the start.
    """

    guest = "x86_64"
    machine = ""
    extra: Sequence[str] = ()
    cold = False

    def setUp(self) -> None:
        self.build = Build.under_test()
        self.owned = ExitStack()
        self.addCleanup(self.owned.close)
        self.folder = Path(self.owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
        self.host_data = io_checks.HostData(self.folder)
        self.host_data.prepare()
        (self.host_data.shared / "file").write_bytes(os.urandom(io_checks.MIB))
        self.settings = catalog.guest(self.guest)
        self.place = machine_types()[self.machine or self.settings.machine]

    def daemon(self, name: str) -> BackendProcess:
        started = virtiofsd(self.folder, self.host_data.shared, self.settings.architecture, name)
        return self.owned.enter_context(started)

    def device(self, name: str) -> Device:
        """In front of a virtiofsd without a thread pool, which keeps the order of requests."""
        driver = f"vhost-user-fs-{self.place.transport}"
        own: Device = {} if self.build.is_base else {"x-fail-requests": True}
        return {
            "driver": driver,
            "id": name,
            **self.place.place,
            "chardev": name,
            "tag": "share",
            **own,
        }

    def mounted(self) -> tuple[Machine, BackendProcess]:
        """A guest with a virtiofs at /mnt/one."""
        first = self.daemon("one")
        cold = [self.device("one")] if self.cold else []
        spec = Spec(
            machine=self.place.name,
            cpu=self.settings.cpu,
            memory=self.settings.memory,
            devices=[*self.place.ports, *cold],
            chardevs=[f"socket,id=one,path={first.socket}"],
            extra=self.extra,
            boot=Boot(self.settings, ("virtiofs",)),
        )
        binary = self.build.path(f"qemu-system-{self.settings.qemu}")
        machine = self.owned.enter_context(Machine(binary, spec, log=self.folder / "qemu.log"))
        self.log.info("kernel %s", machine.boot())
        if not self.cold:
            machine.plug(self.device("one"))
        io_checks.find(machine.console, FS)
        machine.console.check("mkdir -p /mnt/one /mnt/two && mount -t virtiofs share /mnt/one")
        return machine, first

    def read(self, machine: Machine) -> None:
        """Have the guest read a file in the background."""
        machine.console.check(
            "(cat /mnt/one/file >/dev/null 2>/tmp/said; mv /tmp/said /tmp/read) & echo started"
        )

    def assert_read_failed(self, machine: Machine) -> None:
        try:
            said = machine.console.check('await "test -e /tmp/read" && cat /tmp/read', ENDS_S)
        except TimeoutError as late:
            self.fail(f"the guest still waits: {late}")
        self.assertIn(EIO, said)

    def assert_replaceable(self, machine: Machine) -> None:
        """The device goes, its chardev is free, and the guest mounts another."""
        machine.unplug("one", UNPLUGGED_S)
        io_checks.wait_gone(machine.console, FS)
        machine.qmp.execute("chardev-remove", id="one")
        second = self.daemon("two")
        machine.add_socket("two", second.socket)
        machine.plug(self.device("two"))
        io_checks.find(machine.console, FS, UNPLUGGED_S)
        data = (self.host_data.shared / "file").read_bytes()
        machine.console.check("mount -t virtiofs share /mnt/two", ENDS_S)
        seen = machine.console.check("sha256sum /mnt/two/file", ENDS_S)
        self.assertEqual(seen.split()[0], hashlib.sha256(data).hexdigest())

    def kill(self, daemon: BackendProcess) -> None:
        daemon.process.kill()
        daemon.process.wait(ENDS_S)

    def check_in_flight(self) -> None:
        """The daemon dies with a request: the guest's task gets an error."""
        machine, daemon = self.mounted()
        daemon.process.process.send_signal(signal.SIGSTOP)
        self.read(machine)
        # The stack of a task that waits for a FUSE answer.
        machine.console.check(
            'for pid in $(pidof cat); do await "grep -q request_wait_answer /proc/$pid/stack"; done'
        )
        self.kill(daemon)
        self.assert_read_failed(machine)
        self.assert_replaceable(machine)


class WithoutDaemonX86(WithoutDaemon):
    """
    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-fs-pci,hotplug
    """

    def test_killed_with_a_request(self) -> None:
        self.check_in_flight()

    def test_killed_before_a_request(self) -> None:
        machine, daemon = self.mounted()
        self.kill(daemon)
        self.read(machine)
        self.assert_read_failed(machine)
        self.assert_replaceable(machine)

    def test_killed_before_a_mount(self) -> None:
        """The next mount is of no use, but it does not wait."""
        machine, daemon = self.mounted()
        machine.console.check("umount /mnt/one")
        self.kill(daemon)
        machine.console.run("mount -t virtiofs share /mnt/one", ENDS_S)
        said = machine.console.run("ls /mnt/one", ENDS_S).output
        self.assertIn(REFUSED, said.lower())
        machine.console.run("umount /mnt/one", ENDS_S)
        self.assert_replaceable(machine)

    def test_killed_while_idle(self) -> None:
        """As on stock QEMU."""
        machine, daemon = self.mounted()
        self.kill(daemon)
        self.assert_replaceable(machine)

    def test_file_open_at_unplug(self) -> None:
        """As on stock QEMU."""
        machine, _ = self.mounted()
        machine.console.check(HOLD)
        self.assert_replaceable(machine)
        machine.console.check("kill $(cat /tmp/holder)")

    def test_unmounted_after_it_was_killed(self) -> None:
        """A file that was open is closed, and the folder is unmounted."""
        machine, daemon = self.mounted()
        machine.console.check(HOLD)
        self.kill(daemon)
        machine.console.check('kill $(cat /tmp/holder); await "umount /mnt/one"', ENDS_S)
        self.assert_replaceable(machine)


class WithoutDaemonNative(WithoutDaemon):
    """PCIe's own hot-plug instead of ACPI's.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-fs-pci,hotplug
    """

    extra = NATIVE

    def test_killed_with_a_request(self) -> None:
        self.check_in_flight()


class WithoutDaemonCold(WithoutDaemon):
    """
    :avocado: enable
    :avocado: tags=arch:x86_64,machine:pc,device:vhost-user-fs-pci,hotplug
    """

    machine = "pc"
    cold = True

    def test_killed_with_a_request(self) -> None:
        self.check_in_flight()


class WithoutDaemonBookworm(WithoutDaemon):
    """An older kernel.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-fs-pci,hotplug
    """

    guest = "x86_64-bookworm"

    def test_killed_with_a_request(self) -> None:
        self.check_in_flight()


class WithoutDaemonCcw(WithoutDaemon):
    """A big-endian guest.

    :avocado: enable
    :avocado: tags=arch:s390x,machine:s390-ccw-virtio,device:vhost-user-fs-ccw,hotplug
    """

    guest = "s390x"

    def test_killed_with_a_request(self) -> None:
        self.check_in_flight()
