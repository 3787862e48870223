"""What a guest boots with."""

from dataclasses import dataclass
from pathlib import Path

from qap.machine import catalog
from qap.machine.guest.initramfs import initramfs
from qap.machine.guest.kernel import kernel


@dataclass(frozen=True)
class Images:
    """The files that a guest boots from."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Boot:
    """The kernel, initramfs and command line that a guest boots with.

    Attributes:
        modules, programs: what is in the initramfs, as `initramfs` takes it.
        append: kernel parameters beside the guest's own.
        packaged: boot the kernel as its package has it, which decompresses itself, even if
            there is an uncompressed one.
    """

    guest: catalog.Guest
    modules: tuple[str, ...] = ()
    append: str = ""
    packaged: bool = False
    programs: tuple[str, ...] = ()

    def bring(self) -> Images:
        """The kernel and initramfs, from the cache or the Debian archive.

        Raises:
            MissingError: no suite has the kernel.
            UsageError: the kernel has no such module.
        """
        image = kernel(self.guest)
        modules = (*self.guest.modules, *self.modules)
        return Images(
            image.packaged if self.packaged else image.image,
            initramfs(self.guest, image, modules, self.programs),
        )

    @property
    def words(self) -> str:
        """The kernel's command line."""
        words = (
            f"console={self.guest.console} qap.console={self.guest.console} "
            f"panic=-1 quiet loglevel=4 {self.guest.append} {self.append}"
        )
        return " ".join(words.split())
