"""Real vhost-user back-ends: Debian's virtiofsd and vhost-user-gpu, and QEMU's storage daemon.

Most inherit a socket that already listens. So nobody waits for them to start: QEMU connects and
is answered as soon as the program is ready.
"""

import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.host.debian.bundles import bundle
from qap.host.debian.loader import HOST, loader_argv
from qap.host.debian.package import merge_usr, unpacked
from qap.host.errors import QapError
from qap.host.process import Process
from qap.host.wait import poll_until
from qap.vhost_user.relay import ByteOrderRelay

START_S = 20.0
# linux/net.h: __SO_ACCEPTCON, in the flags there.
UNIX_SOCKETS = Path("/proc/net/unix")
ACCEPTS = 1 << 16


@dataclass(frozen=True)
class BackendProcess:
    """A running back-end.

    Attributes:
        socket: the path QEMU connects to.
        process: its process.
        by_hand: command lines that start the same back-end by hand.
    """

    socket: Path
    process: Process
    by_hand: tuple[str, ...]


@contextmanager
def _started(argv_for: Callable[[int], list[str]], path: Path, log: Path) -> Iterator[Process]:
    """A program that inherits a listening socket; `argv_for` gets its file descriptor number.

    Only the program holds the socket: if it ends, QEMU's connection ends too.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(1)
            fd = listener.fileno()
            process = Process(argv_for(fd), log=log, fds=(fd,))
        with process:
            yield process
    finally:
        path.unlink(missing_ok=True)


def virtiofsd_argv(architecture: str) -> list[str]:
    """Debian's virtiofsd as a command line, without installing it.

    That of another architecture runs under qemu-user; the host's runs with the libraries
    it was built for.
    """
    program = "usr/libexec/virtiofsd"
    if architecture == HOST:
        root = unpacked(bundle("virtiofsd", architecture), finish=merge_usr)
        return [*loader_argv(root), str(root / program)]
    emulator = f"usr/bin/qemu-{architecture}"
    foreign = bundle("virtiofsd-foreign", architecture)
    root = unpacked(foreign, members={"qemu-user": [f"./{emulator}"]}, finish=merge_usr)
    return [str(root / emulator), "-L", str(root), str(root / program)]


@contextmanager
def virtiofsd(folder: Path, shared: Path, architecture: str, name: str) -> Iterator[BackendProcess]:
    """virtiofsd sharing `shared` with a guest of this architecture.

    FUSE uses the guest's byte order, so a big-endian guest needs a big-endian virtiofsd.
    That needs a relay, as the vhost-user protocol is in host byte order.

    Args:
        folder: where sockets and the log go.
        architecture: Debian's name of the guest's architecture.
        name: of sockets and log.
    """
    foreign = architecture != HOST
    path = folder / f"{name}.sock"
    served = folder / f"{name}-foreign.sock" if foreign else path
    program = virtiofsd_argv(architecture)
    options = ["--shared-dir", str(shared), "--sandbox", "none", "--seccomp", "none"]
    by_hand = [shlex.join([*program, "--socket-path", str(served), *options])]
    with ExitStack() as owned:
        started = _started(
            lambda fd: [*program, "--fd", str(fd), *options], served, folder / f"{name}.log"
        )
        process = owned.enter_context(started)
        if foreign:
            owned.enter_context(ByteOrderRelay(path, served))
            relay = [sys.executable, "-m", "qap.vhost_user.relay", str(path), str(served)]
            by_hand += [f"until [ -S {served} ]; do sleep 0.1; done", shlex.join(relay)]
        yield BackendProcess(path, process, tuple(by_hand))


@contextmanager
def gpu(folder: Path, name: str) -> Iterator[BackendProcess]:
    """Debian's vhost-user-gpu, which draws in memory.

    Args:
        folder: where the socket and the log go.
        name: of socket and log.
    """
    path = folder / f"{name}.sock"
    root = unpacked(bundle("vhost-user-gpu", HOST), finish=merge_usr)
    program = [*loader_argv(root), str(root / "usr/lib/qemu/vhost-user-gpu")]
    argv = [*program, f"--socket-path={path}"]
    with ExitStack() as owned:
        owned.callback(path.unlink, missing_ok=True)
        process = owned.enter_context(Process(argv, log=folder / f"{name}.log"))
        await_listening(path, process)
        yield BackendProcess(path, process, (shlex.join(argv),))


def await_listening(path: Path, process: Process) -> None:
    """Wait until a program listens on a socket of its own; a connection would be its only one.

    Raises:
        QapError: it ended before.
        TimeoutError: it does not listen in time.
    """

    def listens() -> bool | None:
        if not process.alive:
            raise QapError(f"{path.name}: the back-end ended before it listened", process.tail())
        # proc(5): Num, RefCount, Protocol, Flags, …, Path.
        words = [line.split() for line in UNIX_SOCKETS.read_text().splitlines()]
        flags = [int(word[3], 16) for word in words if word[-1] == str(path)]
        return True if any(flag & ACCEPTS for flag in flags) else None

    poll_until(listens, START_S, lambda: f"a back-end to listen on {path}")


def null_disk(node: str) -> str:
    """A -blockdev of 1 GiB that stores nothing and completes requests at once."""
    return f"driver=null-co,node-name={node},size={1 << 30}"


@contextmanager
def storage_daemon(
    folder: Path,
    program: Path,
    image: Path | None,
    name: str,
    queues: int = 1,
    *,
    locks: bool = True,
) -> Iterator[BackendProcess]:
    """qemu-storage-daemon exporting a raw image as a vhost-user-blk disk.

    Args:
        folder: where the socket and the log go.
        program: the daemon.
        image: the raw image; None for a null disk of 1 GiB.
        name: of socket and log.
        queues: how many request queues it serves.
        locks: it locks the image, so that no other program writes it.
    """
    path = folder / f"{name}.sock"
    blockdev = f"driver=file,node-name=disk,filename={image},cache.direct=off"
    blockdev += "" if locks else ",locking=off"
    if image is None:
        blockdev = null_disk("disk")

    def command(address: str) -> list[str]:
        export = f"type=vhost-user-blk,id=export,node-name=disk,writable=on,{address}"
        export += f",num-queues={queues}" if queues > 1 else ""
        return [str(program), "--blockdev", blockdev, "--export", export]

    by_hand = shlex.join(command(f"addr.type=unix,addr.path={path}"))
    started = _started(
        lambda fd: command(f"addr.type=fd,addr.str={fd}"), path, folder / f"{name}.log"
    )
    with started as process:
        yield BackendProcess(path, process, (by_hand,))
