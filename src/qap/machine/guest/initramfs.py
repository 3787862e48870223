"""An initramfs with busybox, the modules a scenario asks for, and our /init."""

import hashlib
import tempfile
from pathlib import Path

import libarchive
from libarchive.write import ArchiveWrite

from qap.host.debian.bundles import bundle
from qap.host.debian.package import unpacked
from qap.host.lock import locked
from qap.host.paths import cache
from qap.machine import catalog
from qap.machine.guest.kernel import Kernel, module_content, module_name
from qap.machine.guest.program import program

HERE = Path(__file__).parent
SCRIPTS = {
    "init": HERE / "init.sh",
    "bin/await": HERE / "await.sh",
    "bin/virtio-device": HERE / "virtio-device.sh",
}


def initramfs(
    guest: catalog.Guest, kernel: Kernel, modules: tuple[str, ...], programs: tuple[str, ...] = ()
) -> Path:
    """A cpio archive (newc) that boots to a console dialogue; made once and cached.

    Args:
        modules: names of kernel modules to load at boot, besides their dependencies.
        programs: names of further programs in /bin, as qap.machine.guest.program takes them.
    """
    busybox = unpacked(bundle("busybox", guest.architecture))
    files = kernel.modules(modules)
    ours = {f"bin/{name}": program(name, guest.architecture) for name in programs}
    state = hashlib.sha256()
    for script in SCRIPTS.values():
        state.update(script.read_bytes())
    for path in (busybox, *files, *ours.values()):
        state.update(f"{path}\0".encode())
    home = cache() / "initramfs"
    target = home / f"{guest.name}-{state.hexdigest()[:16]}.cpio"
    with locked(home):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                fresh = Path(scratch) / "cpio"
                _write(fresh, _busybox(busybox), files, ours)
                fresh.rename(target)
    return target


def _busybox(root: Path) -> Path:
    return next(path for path in root.glob("**/bin/busybox") if path.is_file())


def _write(target: Path, busybox: Path, modules: list[Path], ours: dict[str, Path]) -> None:
    loads = "".join(f"{module_name(path.name)}.ko\n" for path in modules)
    with libarchive.file_writer(str(target), "cpio_newc") as archive:
        for folder in ("bin", "dev", "mnt", "modules", "proc", "run", "sys", "tmp"):
            archive.add_file_from_memory(folder, 0, b"", filetype=0o040000, permission=0o755)
        _add(archive, "bin/busybox", busybox.read_bytes())
        for name, file in (SCRIPTS | ours).items():
            _add(archive, name, file.read_bytes())
        _add(archive, "modules/order", loads.encode())
        for path in modules:
            _add(archive, f"modules/{module_name(path.name)}.ko", module_content(path))


def _add(archive: ArchiveWrite, name: str, data: bytes) -> None:
    archive.add_file_from_memory(name, len(data), data, permission=0o755)
