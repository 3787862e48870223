"""vDPA devices in L1, each with a /dev/vhost-vdpa-N for a QEMU that runs there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qap.lab.l1 import L1
from qap.lab.program import L1Program

VDPA = "/usr/sbin/vdpa"
BUS = "/sys/bus/vdpa/devices"
READY_S = 20.0
DAEMON = "qemu-storage-daemon"


@dataclass(frozen=True)
class Vdpa:
    """A vDPA device that vhost-vdpa drives.

    Attributes:
        name: on L1's vDPA bus.
        node: the character device that QEMU opens, in L1.
        parent: how the names of its driver's functions begin, see `qap.lab.vdpa_calls`.
    """

    name: str
    node: str
    parent: str


@contextmanager
def vdpa_device(l1: L1, manager: str, parent: str, name: str, *options: str) -> Iterator[Vdpa]:
    """Make a device on L1's vDPA bus; it goes when the context ends.

    Args:
        manager: a management device, such as "vduse" or "pci/0000:01:00.0".
        parent: as in Vdpa.
        name: of the device; vduse must have one of this name.
        options: more words of `vdpa dev add`.
    Raises:
        GuestCommandError: the kernel refused it.
        TimeoutError: vhost-vdpa did not take it.
    """
    l1.check(f"{VDPA} dev add name {name} mgmtdev {manager} {' '.join(options)}")
    try:
        taken = f"{BUS}/{name}/vhost-vdpa-*"
        l1.check(f'await "test -d {taken}"', READY_S)
        node = f"/dev/{l1.check(f'basename {taken}').strip()}"
        l1.check(f'await "test -c {node}"', READY_S)
        yield Vdpa(name, node, parent)
    finally:
        l1.check(f"{VDPA} dev del {name}")


@dataclass
class VduseDisk:
    """A disk that qemu-storage-daemon serves in L1 through vduse. Use as a context manager.

    It offers ACCESS_PLATFORM, as vduse demands.

    Args:
        content: its bytes at the start, whole sectors.
        options: more options of the export, each after a comma.

    Attributes:
        image: the file with its content, here and in L1.
        device: on the vDPA bus.
    """

    l1: L1
    content: bytes
    options: str = ""
    image: Path = field(init=False)
    device: Vdpa = field(init=False)
    _daemon: L1Program = field(init=False, repr=False)
    _owned: ExitStack = field(init=False, repr=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        name = self.l1.name("vduse")
        self.image = self.l1.folder / f"{name}.img"
        self.image.write_bytes(self.content)
        with ExitStack() as owned:
            owned.callback(self.image.unlink)
            self._start(name)
            # The kernel's part goes first: without a daemon it waits for answers.
            owned.callback(self._end)
            device = vdpa_device(self.l1, "vduse", "vduse_vdpa", name)
            self.device = owned.enter_context(device)
            self._owned = owned.pop_all()
        return self

    def _start(self, name: str) -> None:
        export = f"vduse-blk,id=disk,node-name=disk,writable=on,name={name}{self.options}"
        self._daemon = self.l1.program(
            self.l1.build.path(DAEMON),
            *("--blockdev", f"file,node-name=disk,filename={self.image}"),
            *("--export", export),
        )
        self.l1.check(f'await "test -c /dev/vduse/{name}"', READY_S)

    def _end(self) -> None:
        self._daemon.send_signal("TERM")
        self._daemon.wait(READY_S)
        self._daemon.end()

    @property
    def is_served(self) -> bool:
        """Whether its daemon runs."""
        return self._daemon.alive

    def kill(self) -> None:
        """Kill the daemon; the device stays on the bus."""
        self._daemon.end()

    def come_back(self) -> None:
        """Start a daemon again, after `kill`, for the same device."""
        self._start(self.device.name)

    def __exit__(self, *_: object) -> None:
        self._owned.close()


@contextmanager
def simulated(l1: L1, kind: str, *options: str) -> Iterator[Vdpa]:
    """A device of vdpa_sim, which offers ACCESS_PLATFORM.

    A network device has a control queue, and receives what it sends. A disk has no sectors
    that were not written.

    Args:
        kind: "net" or "blk", of which there can be only one.
        options: as in `vdpa_device`.
    """
    l1.load(f"vdpa_sim_{kind}")
    name = l1.name("sim")
    with vdpa_device(l1, f"vdpasim_{kind}", "vdpasim", name, *options) as device:
        yield device


@contextmanager
def passed_through(l1: L1, bdf: str) -> Iterator[Vdpa]:
    """A virtio-pci device of L1 itself, as vp_vdpa has it.

    It offers ACCESS_PLATFORM if L1's machine says iommu_platform=on. L1 must have an IOMMU.

    Args:
        bdf: the device's address in L1, such as "0000:00:10.0".
    """
    l1.load("vp_vdpa")
    at = f"/sys/bus/pci/devices/{bdf}"
    l1.check(
        f"if test -d {at}/driver; then echo {bdf} >{at}/driver/unbind; fi && "
        f"echo vp-vdpa >{at}/driver_override && echo {bdf} >/sys/bus/pci/drivers_probe"
    )
    try:
        name = l1.name("vp")
        with vdpa_device(l1, f"pci/{bdf}", "vp_vdpa", name) as device:
            yield device
    finally:
        l1.check(f"echo {bdf} >{at}/driver/unbind")
