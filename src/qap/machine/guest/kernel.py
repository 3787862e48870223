"""A Debian kernel and its modules."""

import lzma
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qap.host import paths
from qap.host.debian.bundle import Bundle
from qap.host.debian.package import unpacked
from qap.host.debian.place import Place
from qap.host.errors import MissingError, QapError, unknown_name
from qap.machine import catalog
from qap.machine.guest.bzimage import vmlinux
from qap.machine.guest.kernel_build import KernelBuild

# Prefixes of names. From Debian forky on, the image package is empty and needs the others.
PARTS = ("linux-image-", "linux-base-", "linux-binary-", "linux-modules-")


@dataclass(frozen=True)
class Kernel:
    """A kernel package, unpacked.

    Args:
        root: the folder that holds the package's content.
    """

    root: Path

    @cached_property
    def packaged(self) -> Path:
        """The image as the package has it."""
        return next((self.root / "boot").glob("vmlinuz-*"))

    @property
    def image(self) -> Path:
        """The kernel as QEMU's -kernel takes it, uncompressed where that boots (PVH)."""
        uncompressed = self.root / "boot" / f"vmlinux-{self.release}"
        return uncompressed if uncompressed.exists() else self.packaged

    @property
    def release(self) -> str:
        """What uname -r says in a guest that runs it."""
        return self.packaged.name.removeprefix("vmlinuz-")

    @cached_property
    def _modules(self) -> Path:
        return self.root / "lib/modules" / self.release

    @cached_property
    def _dependencies(self) -> dict[str, tuple[str, list[str]]]:
        """Module name to its file and the files it needs, as depmod would resolve them."""
        dependencies = {}
        for line in (self._modules / "modules.dep").read_text().splitlines():
            file, _, needs = line.partition(":")
            dependencies[module_name(file)] = (file, needs.split())
        return dependencies

    @cached_property
    def builtin(self) -> set[str]:
        """Names of the modules that are part of the image."""
        listed = (self._modules / "modules.builtin").read_text().split()
        return {module_name(file) for file in listed}

    @property
    def names(self) -> set[str]:
        """Names of all its modules, those that are built in among them."""
        return {*self._dependencies, *self.builtin}

    def modules(self, names: tuple[str, ...]) -> list[Path]:
        """Files to load, dependencies first, for the modules that are not built in.

        Raises:
            UsageError: the kernel has no such module.
        """
        ordered: dict[str, None] = {}
        for name in names:
            wanted = name.replace("-", "_")
            if wanted in self.builtin:
                continue
            if wanted not in self._dependencies:
                raise unknown_name("kernel module", name, self._dependencies)
            file, needs = self._dependencies[wanted]
            # modules.dep lists a module's needs with the deepest last.
            ordered.update(dict.fromkeys([*reversed(needs), file]))
        return [self._modules / file for file in ordered]


def module_name(file: str) -> str:
    """A module's name, from its file's."""
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def module_content(path: Path) -> bytes:
    """A module as insmod takes it; Debian compresses them with xz."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def kernel(guest: catalog.Guest) -> Kernel:
    """The guest's kernel, fetched (and compiled, if it has a recipe) unless it is cached."""
    if not guest.recipe:
        return Kernel(unpacked(bundle(guest), finish=_finish))
    (package,) = bundle(guest).files()
    recipe = paths.data() / "kernels" / guest.recipe
    return Kernel(KernelBuild(guest.name, guest.architecture, package, recipe).bring())


def bundle(guest: catalog.Guest) -> Bundle:
    """The guest's kernel package, and the packages of PARTS that it depends on, or its source."""
    places = tuple(Place(suite=suite) for suite in guest.suites)
    if guest.recipe:
        return Bundle(f"kernel:{guest.name}", (f"{guest.kernel}:all",), places)
    name = f"{guest.kernel}:{guest.architecture}"
    return Bundle(f"kernel:{guest.name}", (name,), places, follow=PARTS)


def _finish(root: Path) -> None:
    _fill_boot(root)
    _depmod(root)
    _uncompress(Kernel(root))


def _fill_boot(root: Path) -> None:
    """Put the image and its configuration where packages had them before forky."""
    (root / "boot").mkdir(exist_ok=True)
    for name in ("vmlinuz", "config"):
        for file in (root / "usr/lib/modules").glob(f"*/{name}"):
            target = Path("..") / file.relative_to(root)
            (root / "boot" / f"{name}-{file.parent.name}").symlink_to(target)


def _uncompress(kernel: Kernel) -> None:
    """Uncompress the kernel once: in the guest, each boot takes half a second for it under TCG."""
    built = kernel.packaged.with_name(f"config-{kernel.release}")
    if built.exists() and "CONFIG_PVH=y" in built.read_text().splitlines():
        uncompressed = vmlinux(kernel.packaged.read_bytes())
        if uncompressed is not None:
            kernel.packaged.with_name(f"vmlinux-{kernel.release}").write_bytes(uncompressed)


def _depmod(root: Path) -> None:
    """Write modules.dep, which the package leaves to its installation."""
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    release = Kernel(root).release
    try:
        done = subprocess.run(
            ["depmod", "-b", str(root), release],
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as exc:
        raise MissingError("depmod is missing: install kmod") from exc
    if done.returncode:
        raise QapError(f"depmod failed for kernel {release}", done.stderr.strip())
