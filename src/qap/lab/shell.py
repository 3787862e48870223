"""L1 with its console on the terminal."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host.terminal import foreground
from qap.lab.l1_spec import l1_spec

BINARY = "qemu-system-x86_64"


def shell(build: Build) -> None:
    """Boot L1 with its console on the terminal, and wait until it or its user ends it.

    Raises:
        QapError: QEMU failed.
    """
    with tempfile.TemporaryDirectory(prefix="qap-") as folder:
        spec = l1_spec(build, Path(folder), append="qap.shell", extra=["-serial", "mon:stdio"])
        argv = [str(build.path(BINARY)), *spec.argv(spec.bring())]
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for name, text in (
            ("guest", "L1, which has the kernel's vhost, vDPA and VFIO devices"),
            ("keys", "Ctrl-A C: QEMU's monitor, and back; Ctrl-A X: the end"),
            ("QEMU", f"in the guest: {build.path(BINARY)} -accel qtest -nographic …"),
            ("shared", f"{folder}: both sides can write it; it goes at the end"),
            ("same", "/usr, and the project's qemu/: read-only, and the same as here"),
        ):
            console.print(f"[bold]{name:>8}[/]  {escape(text)}")
        foreground(argv, "QEMU")
