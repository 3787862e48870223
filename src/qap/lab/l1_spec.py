"""The machine that L1 is."""

from collections.abc import Sequence
from pathlib import Path

from qap.fork.build import Build
from qap.host.paths import cache
from qap.lab.channel import BUS
from qap.lab.settings import settings
from qap.machine import catalog
from qap.machine.device import Device
from qap.machine.guest.boot import Boot
from qap.machine.spec import Spec

USR = Path("/usr")


def l1_spec(
    build: Build,
    shared: Path,
    devices: Sequence[Device] = (),
    modules: Sequence[str] = (),
    append: str = "",
    extra: Sequence[str] = (),
) -> Spec:
    """The machine that configs/lab.toml describes.

    Args:
        build: whose project's qemu/ it sees, read-only, beside /usr and qap's cache; all under
            the same paths as here.
        shared: a folder that it sees, too, and can write to.
        devices: what it has besides, after those of configs/lab.toml.
        modules, append: kernel modules and parameters, besides.
        extra: more words of the command line.
    """
    asked = settings().l1
    shares = {"usr": USR, "qemu": build.project.qemu, "cache": cache(), "shared": shared}
    words = ["-smp", str(asked.processors)]
    for tag, path in shares.items():
        fsdev = f"local,id={tag},path={path},security_model=none"
        words += ["-fsdev", fsdev if tag == "shared" else f"{fsdev},readonly=on"]
        words += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    mounts = ",".join(f"{tag}:{path}" for tag, path in shares.items())
    for netdev in asked.netdevs:
        words += ["-netdev", netdev]
    guest = catalog.guest(asked.guest)
    return Spec(
        machine=guest.machine,
        cpu=asked.cpu,
        memory=asked.memory,
        devices=[{"driver": "virtio-serial-pci", "id": BUS}, *asked.devices, *devices],
        extra=[*words, *extra],
        boot=Boot(guest, (*asked.modules, *modules), f"{asked.append} {append} qap.9p={mounts}"),
    )
