"""The real back-ends that some cells have behind their device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from qap.fork.build import Build
from qap.host.debian.loader import HOST
from qap.vhost_user import programs
from qap.vhost_user.programs import BackendProcess
from qap.vhost_user.testpmd import testpmd

DISK_SIZE = 1 << 20


def real_backend(
    name: str, build: Build, folder: Path, socket: str
) -> AbstractContextManager[BackendProcess]:
    """A program of configs/matrix.toml's back-ends, listening inside the context.

    Args:
        folder: where its files go.
        socket: what socket and log are called.
    """
    started: dict[str, Callable[[], AbstractContextManager[BackendProcess]]] = {
        "virtiofsd": partial(_virtiofsd, folder, socket),
        "qemu-storage-daemon": partial(_storage_daemon, build, folder, socket),
        "testpmd": partial(testpmd, folder, socket),
        "testpmd-no-iommu": partial(testpmd, folder, socket, access_platform=False),
    }
    return started[name]()


def _virtiofsd(folder: Path, socket: str) -> AbstractContextManager[BackendProcess]:
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    return programs.virtiofsd(folder, shared, HOST, socket)


def _storage_daemon(
    build: Build, folder: Path, socket: str
) -> AbstractContextManager[BackendProcess]:
    image = folder / "disk.raw"
    image.touch()
    with image.open("r+b") as file:
        file.truncate(DISK_SIZE)
    return programs.storage_daemon(folder, build.path("qemu-storage-daemon"), image, socket)
