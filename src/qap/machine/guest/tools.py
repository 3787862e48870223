"""Programs that busybox lacks, for a guest that mounts them over 9p: Debian's perl-base."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qap.host.debian.bundles import bundle
from qap.host.debian.package import merge_usr, unpacked
from qap.machine.guest.console import Console

# What a guest needs to mount the folder.
MODULES = ("9p", "9pnet_virtio")
TAG = "tools"


def tools(architecture: str) -> Path:
    """A folder to chroot into, with usr/bin/perl, its libraries, and an empty dev/.

    Args:
        architecture: Debian's name of the guest's.
    Raises:
        MissingError: a package is not cached and can't be brought.
    """
    return unpacked(bundle("perl", architecture), finish=_finish)


def fsdev(architecture: str) -> str:
    """The value of -fsdev for the folder, with TAG for its id."""
    return f"local,id={TAG},path={tools(architecture)},security_model=none,readonly=on"


@contextmanager
def mounted(console: Console) -> Iterator[str]:
    """Mount the folder in a guest that has it as 9p's TAG; gives the command that runs perl there.

    After a failure it stays mounted, as the guest may not answer.
    """
    console.check(
        "mkdir -p /mnt/tools && "
        f"mount -t 9p -o trans=virtio,version=9p2000.L,ro {TAG} /mnt/tools && "
        "mount -o bind /dev /mnt/tools/dev"
    )
    yield "chroot /mnt/tools /usr/bin/perl"
    console.check("umount /mnt/tools/dev /mnt/tools")


def _finish(root: Path) -> None:
    merge_usr(root)
    (root / "dev").mkdir()
