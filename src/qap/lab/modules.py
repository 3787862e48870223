"""Kernel modules that Debian does not build, compiled for the kernel that a guest boots."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from qap.host.debian.bundle import Bundle
from qap.host.debian.loader import HOST, loader_argv
from qap.host.debian.package import unpack
from qap.host.debian.place import Place
from qap.host.debian.sums import check
from qap.host.debian.taken import Taken
from qap.host.errors import QapError, UsageError, unknown_name
from qap.host.made import made_once
from qap.host.paths import cache, shown
from qap.host.progress import Progress
from qap.machine import catalog
from qap.machine.guest import kernel
from qap.machine.guest.kernel_source import TOOLCHAINS, make, unpack_source

KERNEL = "linux-"
SOURCE = "linux-source-"
# What the packages of headers and source depend on: their content, programs that kbuild runs,
# and the libraries of those.
PARTS = ("linux-headers-", "linux-kbuild-", SOURCE, "libc6", "libelf1", "zlib1g", "libzstd1")
# Files of the kernel's source; each .c becomes a module.
FILES = (
    "drivers/vdpa/vdpa_sim/vdpa_sim.h",
    "drivers/vdpa/vdpa_sim/vdpa_sim.c",
    "drivers/vdpa/vdpa_sim/vdpa_sim_blk.c",
    "drivers/vdpa/vdpa_sim/vdpa_sim_net.c",
    "drivers/vdpa/virtio_pci/vp_vdpa.c",
    "drivers/vhost/vringh.c",
    "samples/vfio-mdev/mtty.c",
)
NAMES = tuple(Path(file).stem for file in FILES if file.endswith(".c"))
# Options of the kernel's configuration that are off for modules: an alignment that only gcc 14
# knows (without it, kbuild takes the older -falign-functions), and debug information.
OFF = ("CC_HAS_MIN_FUNCTION_ALIGNMENT", "DEBUG_INFO", "DEBUG_INFO_BTF_MODULES")
LINKED = re.compile(r"^  LD \[M\] +(\S+)")
# In the section .modinfo, strings end with a NUL.
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class KernelModules:
    """The modules NAMES for a guest's kernel.

    Args:
        guest: one of configs/guests.toml that names its kernel's `headers`.
    """

    guest: catalog.Guest

    def bring(self) -> Path:
        """A folder with NAME.ko for each of NAMES; made once and cached.

        Raises:
            MissingError: a package can't be had, or there is no compiler.
            QapError: headers and source are not of the kernel's version, a package is damaged, it
                does not compile, or the disk is full.
        """
        debs = self._taken().files
        release = kernel.kernel(self.guest).release
        state = hashlib.sha256()
        for part in (*(deb.name for deb in debs), TOOLCHAINS[HOST].version, str(FILES), str(OFF)):
            state.update(f"{part}\0".encode())
        target = cache() / "modules" / f"{release}-{state.hexdigest()[:16]}"

        def build(scratch: Path, progress: Progress) -> Path:
            progress(0, 0, "unpack")
            return _build(debs, release, scratch, progress)

        return made_once(target, f"modules for {release}", build)

    def files(self, names: tuple[str, ...]) -> list[Path]:
        """Files to load, dependencies first, some compiled here and some Debian's (compressed).

        Raises:
            UsageError: there is no such module.
            MissingError, QapError: as for `bring`.
        """
        folder, debian = self.bring(), kernel.kernel(self.guest)
        ordered: dict[Path, None] = {}
        for name in (name.replace("-", "_") for name in names):
            if name in debian.names:
                ordered.update(dict.fromkeys(debian.modules((name,))))
            elif name in NAMES:
                file = folder / f"{name}.ko"
                ordered.update(dict.fromkeys([*self.files(depends(file)), file]))
            else:
                raise unknown_name("kernel module", name, {*debian.names, *NAMES})
        return list(ordered)

    def _taken(self) -> Taken:
        """The packages, of the version of the guest's kernel.

        Raises:
            QapError: they can't be had in that version.
        """
        wanted = bundle(self.guest)
        version = kernel.bundle(self.guest).take().packages[0].version
        taken = wanted.take()
        if _versions(taken) != {version}:
            # They may be from before a newer kernel was taken.
            taken.forget(KERNEL)
            taken = wanted.take()
        if others := _versions(taken) - {version}:
            raise QapError(
                f"{wanted.name} has version {', '.join(sorted(others))} in {taken.place}, and the "
                f"kernel is {version}: remove {shown(taken.files[0].parents[1])}/{KERNEL}* to take "
                "a newer kernel, then ./qap fetch"
            )
        return taken


def bundle(guest: catalog.Guest) -> Bundle:
    """Headers and source of a guest's kernel, and what compiles modules with them.

    Raises:
        UsageError: the guest does not name its kernel's headers.
    """
    if not guest.headers:
        raise UsageError(f"the guest {guest.name} names no headers to compile modules with")
    # The source, which is the same for all, comes along with the host's: what is asked for
    # together is fetched together, so the versions fit.
    packages = (f"{guest.headers}:{HOST}", f"linux-source:{HOST}")
    places = tuple(Place(suite=suite) for suite in guest.suites)
    return Bundle(f"modules:{guest.name}", packages, places, follow=PARTS)


def bundles() -> list[Bundle]:
    """Those of all guests that name headers."""
    return [bundle(guest) for guest in catalog.guests().values() if guest.headers]


def depends(module: Path) -> tuple[str, ...]:
    """Names of the modules that a compiled one needs to be loaded before it."""
    found = DEPENDS.search(module.read_bytes())
    return tuple(found[1].decode().split(",")) if found and found[1] else ()


def _versions(taken: Taken) -> set[str]:
    return {package.version for package in taken.packages if package.name.startswith(KERNEL)}


def _build(debs: list[Path], release: str, scratch: Path, progress: Progress) -> Path:
    """Compile below `scratch`; returns the folder with the modules."""
    root, source, kept = scratch / "root", scratch / "source", scratch / "kept"
    root.mkdir()
    for deb in debs:
        folder = deb.name.partition("_")[0]
        if folder.startswith(SOURCE):
            inside = [f"{folder}/{file}" for file in FILES]
            unpack_source(deb, scratch, source, "--transform=s,.*/,,", *inside)
        else:
            unpack(check(deb), root)
    _use_own_libraries(root)
    (source / "Kbuild").write_text(f"obj-m := {' '.join(f'{name}.o' for name in NAMES)}\n")
    linked: list[str] = []

    def count(line: str) -> None:
        if match := LINKED.match(line):
            linked.append(match[1])
            progress(len(linked), len(NAMES), match[1])

    progress(0, 0, "compile")
    (makefile,) = root.glob("usr/src/linux-headers-*-common*/Makefile")
    make(
        root / "usr/src" / f"linux-headers-{release}",
        *("-f", str(makefile), f"M={source}", *TOOLCHAINS[HOST].words),
        *(f"CONFIG_{option}=" for option in OFF),
        "modules",
        failed=f"the modules for {release} do not build",
        each=count,
    )
    kept.mkdir()
    for name in NAMES:
        (source / f"{name}.ko").rename(kept / f"{name}.ko")
    return kept


def _use_own_libraries(root: Path) -> None:
    """Make kbuild's programs run with the libraries in `root`, which this computer may lack."""
    for file in root.glob("usr/lib/linux-kbuild-*/**/*"):
        if file.is_file() and not file.is_symlink() and file.read_bytes()[:4] == b"\x7fELF":
            program = file.with_name(f"{file.name}.elf")
            file.rename(program)
            # Some find their companions by their own name.
            argv = shlex.join([*loader_argv(root), "--argv0", str(file), str(program)])
            file.write_text(f'#!/bin/sh\nexec {argv} "$@"\n')
            file.chmod(0o755)
