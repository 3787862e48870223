"""Checks that a device works in a guest: real data, compared on the host and in the guest."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from qap.host.errors import QapError
from qap.machine.guest.console import Console

MIB = 1 << 20
DISK_MIB = 16
GUEST_OFFSET_MIB = 8
# A file of 1 MiB in the shared folder, which nobody writes to.
UNCHANGED = "unchanged"


# What virtio-device.sh ends with if a driver gave its device up.
GIVEN_UP = 3


class DataMismatch(QapError):
    """Host and guest disagree about the data."""


class DeviceGivenUp(QapError):
    """The guest's driver gave a device up over ACCESS_PLATFORM; str() is what its kernel says."""


@dataclass(frozen=True)
class HostData:
    """Where a scenario keeps the host's side of the data.

    Args:
        folder: the folder shared by virtiofs, and home of the disk image.
    """

    folder: Path

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    @property
    def image(self) -> Path:
        return self.folder / "disk.img"

    def prepare(self) -> None:
        """Make the shared folder and the image, with fresh random content."""
        self.shared.mkdir()
        (self.shared / UNCHANGED).write_bytes(os.urandom(MIB))
        with self.image.open("wb") as image:
            image.write(os.urandom(MIB))
            image.truncate(DISK_MIB * MIB)


def _compare(what: str, host: str, guest: str) -> str:
    if host != guest:
        raise DataMismatch(f"{what}: SHA-256 on the host {host[:16]}…, in the guest {guest[:16]}…")
    return f"{what}: 1 MiB, SHA-256 {host[:12]}… on both sides"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(
    console: Console, host_data: HostData, name: str, mount: str = "-t virtiofs share"
) -> list[str]:
    """Mount virtiofs, read what the host wrote, write what the host reads, unmount.

    The host writes a new file each time. Of one that changed, a guest that has the folder mounted
    elsewhere may know the old size and bytes for a second: FUSE caches attributes that long.

    Args:
        mount: arguments of `mount` before the folder, for another file system than virtiofs.
    """
    data = os.urandom(MIB)
    with NamedTemporaryFile(prefix="from-host-", dir=host_data.shared) as file:
        file.write(data)
        file.flush()
        console.check(f"mkdir -p /mnt/share && mount {mount} /mnt/share")
        guest_sum = console.check(f"sha256sum /mnt/share/{Path(file.name).name}").split()[0]
    said = [_compare("guest read a file", _sha256(data), guest_sum)]
    wrote = console.check(
        "dd if=/dev/urandom of=/mnt/share/from-guest bs=1M count=1 2>/dev/null && sync && "
        "sha256sum /mnt/share/from-guest && umount /mnt/share"
    ).split()[0]
    host_sum = _sha256((host_data.shared / "from-guest").read_bytes())
    return [*said, _compare("guest wrote a file", host_sum, wrote)]


def large_file(console: Console, host_data: HostData, size: int) -> str:
    """Write a file of `size` MiB into the folder mounted at /mnt/share, and read it back.

    Raises:
        DataMismatch: host and guest have different bytes.
    """
    console.check("mount -t virtiofs share /mnt/share")
    written = f"dd if=/dev/urandom of=/mnt/share/large bs=1M count={size} 2>/dev/null && sync"
    console.check(written, timeout=120)
    # A new mount has nothing of it in its cache.
    console.check("umount /mnt/share && mount -t virtiofs share /mnt/share")
    guest_sum = console.check("sha256sum </mnt/share/large", timeout=120).split()[0]
    console.check("umount /mnt/share")
    with (host_data.shared / "large").open("rb") as large:
        host_sum = hashlib.file_digest(large, "sha256").hexdigest()
        length = large.tell()
    if (host_sum, length) != (guest_sum, size * MIB):
        raise DataMismatch(
            f"{length} bytes with SHA-256 {host_sum[:16]}… on the host, "
            f"{guest_sum[:16]}… in the guest"
        )
    return f"guest wrote and read {size} MiB, SHA-256 {guest_sum[:12]}… on both sides"


def block_nodes(name: str) -> str:
    """A command that lists the disks of a device, by its name under /sys/bus/virtio/devices.

    Those of a SCSI controller come some time after it.
    """
    return f"ls -l /sys/block | sed -n 's|.*/{name}/.*block/||p'"


def disk(console: Console, host_data: HostData, name: str) -> list[str]:
    """Read the start of the disk, write further on, and compare both with the image."""
    nodes = block_nodes(name)
    node = console.check(f'await "{nodes} | grep -q ." && {nodes}')
    with host_data.image.open("rb") as image:
        data = image.read(MIB)
    seen = console.check(f"dd if=/dev/{node} bs=1M count=1 2>/dev/null | sha256sum").split()[0]
    said = [_compare("guest read the disk", _sha256(data), seen)]
    wrote = console.check(
        "dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null && "
        f"dd if=/tmp/data of=/dev/{node} bs=1M seek={GUEST_OFFSET_MIB} conv=fsync 2>/dev/null && "
        "sha256sum /tmp/data"
    ).split()[0]
    with host_data.image.open("rb") as image:
        image.seek(GUEST_OFFSET_MIB * MIB)
        host_sum = _sha256(image.read(MIB))
    return [*said, _compare("guest wrote the disk", host_sum, wrote)]


def random(console: Console, host_data: HostData, name: str) -> list[str]:
    """Read from the virtio random number generator, twice, and get different bytes."""
    console.check(
        "for rng in $(cat /sys/class/misc/hw_random/rng_available); do case $rng in "
        "virtio*) echo $rng >/sys/class/misc/hw_random/rng_current; esac; done; "
        "grep -q virtio /sys/class/misc/hw_random/rng_current"
    )
    draws = [
        console.check("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | sha256sum") for _ in range(2)
    ]
    empty = _sha256(b"")
    if draws[0] == draws[1] or draws[0].startswith(empty):
        raise DataMismatch("the virtio RNG gave the same bytes twice, or none")
    return ["guest read 64 random bytes twice"]


def find(console: Console, device_id: int, timeout: float = 30.0) -> str:
    """Wait for a driver to bind the device with this virtio device ID.

    Returns:
        Its name under /sys/bus/virtio/devices.
    Raises:
        DeviceGivenUp: its driver won't drive it.
    """
    script = f"virtio-device {device_id}"
    done = console.run(script, timeout)
    if done.status == GIVEN_UP:
        raise DeviceGivenUp(done.output.strip())
    return done.checked(script)


def wait_gone(console: Console, device_id: int, timeout: float = 30.0) -> None:
    """Wait until the guest has released the virtio devices with this virtio device ID.

    A guest with channel I/O learns that a device is gone after QEMU's DEVICE_DELETED. If a
    device with the same number is plugged before that, the guest takes it for the old one.
    """
    gone = f"! grep -qlx 0x{device_id:04x} /sys/bus/virtio/devices/*/device"
    console.check(f'await "{gone}"', timeout)


def negotiated(console: Console, name: str) -> list[int]:
    """The feature bits that the guest's driver negotiated, from its sysfs."""
    text = console.check(f"cat /sys/bus/virtio/devices/{name}/features")
    return [bit for bit, digit in enumerate(text) if digit == "1"]
