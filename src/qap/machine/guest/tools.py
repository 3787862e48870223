"""Programs that busybox lacks, for a guest that mounts them over 9p: Debian's perl-base."""

from pathlib import Path

from qap.host.debian.bundles import bundle
from qap.host.debian.package import merge_usr, unpacked

# What a guest needs to mount the folder.
MODULES = ("9p", "9pnet_virtio")


def tools(architecture: str) -> Path:
    """A folder to chroot into, with usr/bin/perl, its libraries, and an empty dev/.

    Args:
        architecture: Debian's name of the guest's.
    Raises:
        MissingError: a package is not cached and can't be brought.
    """
    return unpacked(bundle("perl", architecture), finish=_finish)


def _finish(root: Path) -> None:
    merge_usr(root)
    (root / "dev").mkdir()
