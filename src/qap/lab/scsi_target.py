"""A target of L1's kernel for vhost-scsi: a disk whose sectors say their number."""

from collections.abc import Iterator
from contextlib import contextmanager

from qap.lab.l1 import L1

CONFIG = "/sys/kernel/config"
SECTOR = 512
SECTORS = 64


def sector(number: int) -> bytes:
    """What a sector of the disk has."""
    return f"{number:<{SECTOR - 1}}\n".encode()


@contextmanager
def scsi_target(l1: L1, wwpn: str) -> Iterator[None]:
    """A target with one disk of SECTORS sectors as LUN 0, until the context ends.

    Args:
        wwpn: its name for QEMU: "naa." and 16 hexadecimal digits.
    Raises:
        GuestCommandError: there is one already.
    """
    made = l1.folder / f"{wwpn}.img"
    made.write_bytes(b"".join(sector(number) for number in range(SECTORS)))
    image, core = f"/run/{wwpn}.img", f"{CONFIG}/target/core/fileio_0/{wwpn}"
    target = f"{CONFIG}/target/vhost/{wwpn}"
    group = f"{target}/tpgt_1"
    l1.check(f"test -d {CONFIG}/target || mount -t configfs config {CONFIG}")
    try:
        l1.check(
            f"set -e; cp {made} {image}; mkdir -p {core}; "
            f"echo fd_dev_name={image},fd_dev_size={SECTOR * SECTORS} >{core}/control; "
            f"echo 1 >{core}/enable; mkdir -p {group}/lun/lun_0; echo {wwpn} >{group}/nexus; "
            f"ln -s {core} {group}/lun/lun_0/disk"
        )
        yield
    finally:
        l1.check(
            f"set -e; rm -f {group}/lun/lun_0/disk {image} {made}; "
            f"! test -d {group} || echo NULL >{group}/nexus || true; "
            f"for made in {group}/lun/lun_0 {group} {target} {core}; do "
            "! test -d $made || rmdir $made; done"
        )
