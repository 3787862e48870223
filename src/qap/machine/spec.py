"""A machine as data, and as QEMU's command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from qap.machine.device import Device, device_option
from qap.machine.guest.boot import Boot, Images

# Guest memory that vhost-user back-ends can map.
SHARED = "memory-backend-memfd,share=on"


@dataclass(frozen=True)
class Spec:
    """A machine as data; `argv()` renders it.

    Attributes:
        machine: the machine type with its properties, as -machine takes it.
        accel: "tcg", "qtest", or "kvm" if asked for by name.
        memory: RAM in MiB.
        memory_backend: type and options of its memory backend, or "" for the machine's own.
        objects, chardevs: values of -object and -chardev.
        devices: properties of each -device in the order of the command line; "driver"
            is the type.
        boot: what boots, or None for a machine without a guest.
        qtest: open a QTest session beside the monitor.
    """

    machine: str
    accel: str = "tcg"
    cpu: str | None = None
    memory: int = 512
    memory_backend: str = SHARED
    chardevs: Sequence[str] = ()
    devices: Sequence[Device] = ()
    blockdevs: Sequence[str] = ()
    extra: Sequence[str] = ()
    boot: Boot | None = None
    qtest: bool = False

    def bring(self) -> Images | None:
        """What `argv` needs of a machine that boots a guest; see `Boot.bring`."""
        return self.boot.bring() if self.boot else None

    def argv(self, images: Images | None = None) -> list[str]:
        """The part of the command line that is the same by hand and under qap.

        Args:
            images: what the guest boots from, if there is one.
        """
        words = ["-nodefaults", "-no-user-config", "-display", "none"]
        machine = self.machine
        if self.memory_backend:
            words += ["-object", f"{self.memory_backend},id=ram,size={self.memory}M"]
            machine = f"{machine},memory-backend=ram"
        words += ["-machine", machine, "-accel", self.accel, "-m", str(self.memory)]
        if self.cpu:
            words += ["-cpu", self.cpu]
        for option, values in (("-chardev", self.chardevs), ("-blockdev", self.blockdevs)):
            for value in values:
                words += [option, value]
        for device in self.devices:
            words += ["-device", device_option(device)]
        words += self.extra
        if self.boot:
            assert images is not None, "a guest boots from what bring() gives"
            words += ["-kernel", str(images.kernel), "-initrd", str(images.initrd)]
            words += ["-append", self.boot.words]
        return words
