"""L1: a guest under TCG that has the kernel's vhost, vDPA and VFIO devices."""

import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.host.paths import shown
from qap.lab import agent
from qap.lab.agent import Agent
from qap.lab.channel import Channels
from qap.lab.l1_spec import l1_spec
from qap.lab.modules import KernelModules
from qap.lab.program import L1Program
from qap.lab.settings import settings
from qap.machine import catalog
from qap.machine.device import Device
from qap.machine.guest.console import Console, GuestLost, GuestPanic
from qap.machine.guest.kernel import module_content, module_name
from qap.machine.machine import Machine

LOG = "l1.log"
CONSOLE = "l1-console.log"
# Below the results: logs of an L1 that did not come up.
KEPT = "lab/l1"
DMESG = "l1-dmesg.log"
AGENT_LOG = "agent.log"
USR = Path("/usr")
PERL = "/usr/bin/perl"
NODES_S = 20.0
CONSOLE_LINES = 200
# For the console to say why L1 has ended.
LOST_S = 1.0


class NotUp(QapError):
    """L1 did not come up; str() says why, and where its logs are."""


@dataclass
class L1:
    """A running L1. Use as a context manager.

    Host and L1 see the same files under the same paths: /usr, the builds, qap's cache (all
    read-only), and `folder`.

    Args:
        build: the QEMU that runs it.
        devices: what its machine has besides; `configs/lab.toml` says the rest.
        modules, append: kernel modules and parameters for them.

    Attributes:
        folder: shared with L1, which can write there.
        agent: looks at files in L1 and runs programs, without a shell.
        programs: those that run in it, by name.
        restarted: why its first start failed; "" if it did not.
    """

    build: Build
    devices: Sequence[Device] = ()
    modules: tuple[str, ...] = ()
    append: str = ""
    folder: Path = field(init=False)
    programs: dict[str, L1Program] = field(init=False, default_factory=dict)
    restarted: str = field(init=False, default="")
    machine: Machine = field(init=False, repr=False)
    channels: Channels = field(init=False, repr=False)
    agent: Agent = field(init=False, repr=False)
    _owned: ExitStack = field(init=False, repr=False, default_factory=ExitStack)
    _names: int = field(init=False, default=0)
    _loaded: set[str] = field(init=False, default_factory=set)

    def __enter__(self) -> Self:
        try:
            self._enter()
        except GuestPanic as panic:
            # L1's kernel panics early in one of some 60 boots under TCG.
            self.restarted = str(panic)
            try:
                self._enter()
            except GuestPanic as again:
                raise self._not_up(again) from again
        return self

    def _enter(self) -> None:
        try:
            self._start()
        except GuestPanic:
            self._give_up()
            raise
        except (QapError, TimeoutError, OSError) as exc:
            self._give_up()
            raise self._not_up(exc) from exc
        except BaseException:
            self._owned.close()
            raise

    @property
    def _kept(self) -> Path:
        return self.build.project.results / KEPT

    def _give_up(self) -> None:
        """End all, and keep what L1 and its QEMU said so far."""
        logs = {}
        with suppress(AttributeError, OSError):
            logs = {log.name: log.read_bytes() for log in self.folder.glob("*.log")}
            logs[CONSOLE] = self.console.tail(CONSOLE_LINES).encode()
        self._owned.close()
        with suppress(OSError):
            self._kept.mkdir(parents=True, exist_ok=True)
            for name, data in logs.items():
                (self._kept / name).write_bytes(data)

    def _not_up(self, why: BaseException) -> NotUp:
        said = getattr(why, "said", "").splitlines()[-1:]
        line = ": ".join([str(why).splitlines()[0].removesuffix("; the console ends:"), *said])
        return NotUp(f"L1 did not come up: {line}; its logs are in {shown(self._kept)}")

    def _start(self) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="qap-")
        self._loaded.clear()
        self.folder = Path(self._owned.enter_context(scratch))
        binary = self.build.path("qemu-system-x86_64")
        spec = l1_spec(self.build, self.folder, self.devices, self.modules, self.append)
        machine = Machine(binary, spec, log=self.folder / LOG)
        self.machine = self._owned.enter_context(machine)
        self._boot()
        self.channels = Channels(self.machine, self.folder, self._appeared_by_shell)
        asked, told = self._owned.enter_context(self.channels.open(2))
        script = Path(shutil.copy(agent.SCRIPT, self.folder))
        # A device of the kernel pins a QEMU's memory.
        self.console.check(
            f"ulimit -l unlimited; setsid {PERL} {script} {asked.device} {told.device} "
            f"</dev/null >{self.folder / AGENT_LOG} 2>&1 &"
        )
        self.agent = Agent(asked.sock, self._why)
        self.channels.appeared = lambda nodes: self.agent.wait_nodes(nodes, NODES_S)
        threading.Thread(target=self._listen, args=(told.sock.dup(),), daemon=True).start()

    def _boot(self) -> None:
        """Wait for the first command.

        Raises:
            TimeoutError, GuestPanic: it does not come.
            QemuDied: QEMU has ended.
        """
        try:
            self.console.wait_ready(settings().l1.up)
        except GuestLost:
            raise self.machine.died() from None

    def _appeared_by_shell(self, nodes: Sequence[str]) -> None:
        there = " && ".join(f"test -c {node}" for node in nodes)
        self.console.check(f'await "{there}"', NODES_S)

    def _why(self, error: Exception) -> Exception:
        """What L1's console says where its kernel has stopped, or else `error`."""
        try:
            self.console.wait_ready(LOST_S)
        except QapError as said:
            return said
        except TimeoutError:
            pass
        return error

    @property
    def console(self) -> Console:
        """Runs commands in L1, one at a time."""
        return self.machine.console

    def _listen(self, told: socket.socket) -> None:
        """Take what L1 says of programs that ended, until L1 ends."""
        with told, told.makefile() as lines:
            for line in lines:
                name, status = line.split()
                program = self.programs.get(name)
                if program is not None:
                    program.over(int(status))

    def name(self, kind: str) -> str:
        """A new name for a program or a file."""
        self._names += 1
        return f"{kind}{self._names}"

    def program(self, *argv: str | Path) -> L1Program:
        """Start a program in L1; its context ends it."""
        name = self.name(Path(argv[0]).name)
        return L1Program(self, argv, name, self.folder / f"{name}.log")

    def check(self, script: str, timeout: float = 60.0) -> str:
        """Run a shell script in L1 that must succeed; returns its output.

        Raises:
            GuestCommandError: it ended with a non-zero status.
        """
        return self.console.check(script, timeout)

    def load(self, *names: str) -> None:
        """Load kernel modules and what they need, those that Debian does not build included.

        Raises:
            UsageError: there is no such module.
            GuestCommandError: the kernel refused one.
        """
        if self._loaded.issuperset(names):
            return
        guest = catalog.guest(settings().l1.guest)
        for file in KernelModules(guest).files(names):
            name = module_name(file.name)
            if name not in self._loaded:
                copy = self.folder / f"{name}.ko"
                copy.write_bytes(module_content(file))
                self.check(f"test -d /sys/module/{name} || insmod {copy}")
                copy.unlink()
                self._loaded.add(name)

    def keep(self, target: Path) -> list[Path]:
        """Copy what explains a failure: L1's kernel log and the logs of what ran in it."""
        target.mkdir(parents=True, exist_ok=True)
        try:
            (self.folder / DMESG).write_text(self.console.run("dmesg").output)
        except (QapError, TimeoutError) as exc:
            (self.folder / DMESG).write_text(f"{exc}\n")
        return [Path(shutil.copy(log, target)) for log in sorted(self.folder.glob("*.log"))]

    def __exit__(self, *_: object) -> None:
        self._owned.close()
