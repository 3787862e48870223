"""Debian's DPDK testpmd: a vhost-user network card's back-end that can translate addresses.

It sends every frame back to where it came from, with the two addresses exchanged. It
needs no huge pages, no hardware and no privileges.
"""

import os
import select
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qap.host.debian.bundles import bundle
from qap.host.debian.loader import HOST, loader_argv
from qap.host.debian.package import unpacked
from qap.host.errors import QapError
from qap.host.process import Process
from qap.vhost_user.programs import BackendProcess

START_S = 30.0
PROMPT = b"testpmd> "

# The ABI of DPDK 24.11, which is in the names of its packages, libraries and folders.
ABI = 25
DRIVERS = f"dpdk/pmds-{ABI}.0"
# Loaded by name, as testpmd is given no folder of plugins.
PLUGINS = ("mempool_ring", "net_vhost")
# The least that works: MiB of memory, and buffers, of which testpmd needs at least 1025.
MEMORY_MIB = 24
BUFFERS = 2048


def testpmd_argv() -> list[str]:
    """Debian's testpmd as a command line without options, without installing it.

    Raises:
        MissingError: a package is not cached and can't be brought.
    """
    root = unpacked(bundle("testpmd", HOST))
    plugins = " ".join(f"librte_{name}.so.{ABI}" for name in PLUGINS)
    loader = loader_argv(root, DRIVERS)
    return [*loader, "--preload", plugins, str(root / "usr/bin/dpdk-testpmd")]


@contextmanager
def testpmd(folder: Path, name: str, *, access_platform: bool = True) -> Iterator[BackendProcess]:
    """testpmd with one network card, whose socket listens once the context is entered.

    One of its two threads polls for as long as it lives, at the lowest priority.

    Args:
        folder: for the socket, the log and testpmd's runtime files.
        name: of socket and log.
        access_platform: offer VIRTIO_F_ACCESS_PLATFORM.
    Raises:
        QapError: it ended at once, or could not make the card.
        TimeoutError: it did not come up.
    """
    path = folder / f"{name}.sock"
    cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    card = f"net_vhost0,iface={path},iommu-support={int(access_platform)}"
    argv = ["env", f"RUNTIME_DIRECTORY={folder}", "nice", "-n", "19", *testpmd_argv()]
    argv += ["--no-huge", "-m", str(MEMORY_MIB), "--no-pci", "--no-shconf", "--no-telemetry"]
    argv += ["--lcores", f"(0,1)@({cpus})", "--vdev", card, "--"]
    argv += ["--interactive", "--auto-start", "--no-lsc-interrupt", "--disable-link-check"]
    argv += ["--no-numa", f"--total-num-mbufs={BUFFERS}"]
    argv += ["--port-topology=loop", "--forward-mode=macswap"]
    with ExitStack() as owned:
        owned.callback(path.unlink, missing_ok=True)
        process, said = _wired(argv, folder / f"{name}.log", owned)
        _await_prompt(said, process)
        if not path.is_socket():
            raise QapError("dpdk-testpmd came up without its card", process.tail())
        yield BackendProcess(path, process, (shlex.join(argv),))


def _wired(argv: list[str], log: Path, owned: ExitStack) -> tuple[Process, int]:
    """Start the program with an empty standard input; returns it and its output to read.

    It exits at the end of its input, so the input is closed first at the end: a signal that
    arrives before it waits for a command is lost.
    """
    with ExitStack() as theirs, ExitStack() as ours:
        said, says = os.pipe()
        owned.callback(os.close, said)
        theirs.callback(os.close, says)
        reads, writes = os.pipe()
        theirs.callback(os.close, reads)
        ours.callback(os.close, writes)
        # Through /dev/fd, because a shell need not know file descriptors beyond 9.
        script = f'exec "$@" </dev/fd/{reads} >/dev/fd/{says}'
        process = Process(["sh", "-c", script, "sh", *argv], log=log, fds=(reads, says))
        owned.enter_context(process)
        owned.push(ours.pop_all())
    return process, said


def _await_prompt(said: int, process: Process) -> None:
    """Wait for the prompt: the card is there then, and frames are forwarded."""
    deadline = time.monotonic() + START_S
    text = b""
    while PROMPT not in text:
        if not select.select([said], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"waited {START_S:g} s for the prompt of dpdk-testpmd")
        piece = os.read(said, 4096)
        if not piece:
            raise QapError("dpdk-testpmd ended before its prompt came", process.tail())
        text += piece
