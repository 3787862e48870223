"""A device type of the catalogue, and what QEMU, its back-end and its driver need for it."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from qap.host.toml import Model
from qap.machine.device import Device

Property = str | int | bool
Transport = Literal["pci", "mmio", "ccw"]
SUFFIX: Mapping[Transport, str] = {"pci": "pci", "mmio": "device", "ccw": "ccw"}


class Probe(Model):
    """A buffer that shows whether a device serves its queue.

    Attributes:
        out: bytes for the device in hexadecimal, spaces ignored.
        drop: how many of them at the end are left out.
        room: bytes that the device may write.
        others: queues that have to be set up beside it.
    """

    queue: int
    others: tuple[int, ...] = ()
    out: str = ""
    drop: int = 0
    room: int = 0

    @property
    def data(self) -> bytes:
        raw = bytes.fromhex(self.out)
        return raw[: len(raw) - self.drop]


class Between(Model):
    """The object that QEMU needs between the chardev and the device, such as a netdev.

    Attributes:
        option: of the command line, with its dash.
        type: its value's first word.
        property: of the -device, which names it.
    """

    option: str
    type: str
    property: str


class VhostUser(Model):
    """What a vhost-user device type needs of its back-end to be realized.

    Attributes:
        config: bytes of config space that QEMU reads from it; 0: it must not offer CONFIG.
        features: numbers of the feature bits that it must offer.
        protocol: names of the protocol features that it must offer.
        between: what stands between chardev and device, if anything does.
        reconnects: QEMU connects again when its back-end has gone.
        program: the real back-end in a guest's scenarios.
        program_translates: that program offers ACCESS_PLATFORM
            (tests/qtest-py/library/test_backends.py asks it).
        keeps: what of the guest's it has and hands over to no other, in words; "" for nothing.
        plain: QEMU fences it in the same way as the other types.
    """

    config: int = 0
    features: tuple[int, ...] = ()
    protocol: tuple[str, ...] = ()
    between: Between | None = None
    reconnects: bool = False
    program: Literal["", "virtiofsd", "qemu-storage-daemon", "vhost-user-gpu"] = ""
    program_translates: bool = False
    keeps: str = ""
    plain: bool = True


class Kernel(Model):
    """What the host's kernel has behind a device.

    Attributes:
        access_platform: it offers ACCESS_PLATFORM.
        tap: the network device that its frames go to, made in the kernel lab.
        scsi_target: the name of a target for it, made there.
        vdpa_disk: it is in front of a vDPA disk, made there, which has to be told of each mapping.
    """

    access_platform: bool = False
    tap: str = ""
    scsi_target: str = ""
    vdpa_disk: bool = False


Check = Literal[
    "files",
    "9p-files",
    "disk",
    "random",
    "balloon",
    "network",
    "echo",
    "port",
    "stream",
    "key",
    "motion",
    "position",
    "touch",
    "display",
    "sound",
    "cipher",
    "memory",
    "store",
]


class GuestCheck(Model):
    """What a guest does to prove service.

    Attributes:
        check: what is done with the device (qap.scenario.proof).
        modules: kernel modules that drive the device, where they are not built in.
        declines: its driver never accepts ACCESS_PLATFORM.
        args: of QEMU, in place of the device type's.
        after: devices that are plugged after it, each on a bus of its own.
        append: what the guest's kernel must be told.
        tools: the guest needs the programs of qap.machine.guest.tools.
        not_on: Debian's architectures whose kernels have no driver for it that works.
    """

    check: Check
    modules: tuple[str, ...] = ()
    declines: bool = False
    args: tuple[str, ...] = ()
    after: tuple[dict[str, Property], ...] = ()
    append: str = ""
    tools: bool = False
    not_on: tuple[str, ...] = ()


class DeviceType(Model):
    """A device type without its transport (configs/devices.toml).

    Attributes:
        device_id: the virtio device ID (virtio 1.3, section 5); 0 where the host decides it.
        transports: those that stock QEMU has for it.
        fork_transports: those that only the fork has.
        names: the -device type by transport, where it isn't the obvious one.
        machines: the only ones that take it; any if empty.
        place: where it goes, if not where the machine says.
        legacy: it has a legacy interface, and so properties that choose.
        queues: the property that says how many request queues it has; "" if that can't be chosen.
        iothread: it can be served by an iothread.
        properties: that it needs beside a chardev.
        args: of QEMU that it needs; {folder} is a temporary folder.
        accepts: feature bits of its own that a modern driver has to accept.
        config_layout: fields of device configuration that stay the same until it is driven
            (qap.oracle.config.arranged).
        vhost_user: what is asked of its back-end, if it is a vhost-user device.
        kernel: what the host's kernel has behind it, if that serves it.
        iommu: it is the IOMMU of its bus.
        unmigratable: QEMU migrates no VM that has it.
        hotplug: why it is never hot-plugged; "" if it can be.
        alone: why it can't be on a machine with a vIOMMU.
        needs: what the host lacks for it; "" if nothing. The kernel lab has it if there is a probe.
        probe: a buffer that proves service, for a driver in Python.
        guest: how a guest proves service; None if none of ours does.
    """

    name: str
    device_id: int = 0
    transports: tuple[Transport, ...] = ("pci", "mmio", "ccw")
    fork_transports: tuple[Transport, ...] = ()
    names: dict[Transport, str] = Field(default_factory=dict)
    machines: tuple[str, ...] = ()
    place: dict[str, str] = Field(default_factory=dict)
    legacy: bool = False
    queues: str = ""
    iothread: bool = False
    properties: dict[str, Property] = Field(default_factory=dict)
    args: tuple[str, ...] = ()
    accepts: tuple[int, ...] = ()
    config_layout: str = ""
    vhost_user: VhostUser | None = None
    kernel: Kernel | None = None
    iommu: bool = False
    unmigratable: bool = False
    hotplug: str = ""
    alone: str = ""
    needs: str = ""
    probe: Probe | None = None
    guest: GuestCheck | None = None

    def driver(self, transport: Transport) -> str:
        """What -device calls it."""
        return self.names.get(transport, f"{self.name}-{SUFFIX[transport]}")

    @property
    def every_transport(self) -> tuple[Transport, ...]:
        """Those that stock QEMU or the fork has for it."""
        return (*self.transports, *self.fork_transports)

    @property
    def served_by(self) -> Literal["in-qemu", "python", "kernel"]:
        """The kind of back-end that it takes."""
        return "kernel" if self.kernel is not None else "python" if self.vhost_user else "in-qemu"

    @property
    def node(self) -> str:
        """The character device of its kernel; "" if no kernel serves it."""
        return str(self.properties.get("vhostdev", f"/dev/{self.name}")) if self.kernel else ""

    @property
    def is_vdpa(self) -> bool:
        """Whether a vDPA device is behind it."""
        return self.kernel is not None and self.kernel.vdpa_disk

    @property
    def in_lab(self) -> bool:
        """Whether it runs in the kernel lab alone."""
        return bool(self.needs) and self.probe is not None

    @property
    def program(self) -> str:
        """The program behind it in a guest's scenarios; "" for a device in QEMU itself."""
        return self.vhost_user.program if self.vhost_user else ""

    @property
    def check(self) -> str:
        """How a guest proves service; "" if none of ours does."""
        return self.guest.check if self.guest else ""

    @property
    def modules(self) -> tuple[str, ...]:
        """Kernel modules that drive it in a guest, where they are not built in."""
        return self.guest.modules if self.guest else ()

    @property
    def declined(self) -> bool:
        """Whether a guest's driver never accepts ACCESS_PLATFORM of it."""
        return self.guest is not None and self.guest.declines

    @property
    def can_translate(self) -> bool:
        """Whether what serves it in a guest's scenarios offers ACCESS_PLATFORM."""
        return self.vhost_user is None or self.vhost_user.program_translates

    @property
    def plain(self) -> bool:
        """Whether it is a vhost-user NAME-pci with a chardev, which QEMU fences and hot-plugs."""
        if self.vhost_user is None or self.vhost_user.between or "pci" in self.names:
            return False
        return self.vhost_user.plain and not self.hotplug

    def pci(self, chardev: str) -> tuple[Device, list[str]]:
        """A vhost-user type's PCI device in front of a chardev of this name.

        Returns:
            its properties, and what the command line needs before it.
        """
        assert self.vhost_user is not None
        device: Device = {"driver": self.driver("pci"), **self.properties}
        between = self.vhost_user.between
        if between is None:
            return {**device, "chardev": chardev}, []
        name = f"{chardev}-{between.property}"
        value = f"{between.type},id={name},chardev={chardev}"
        return {**device, between.property: name}, [between.option, value]
