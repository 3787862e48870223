"""L2: a QEMU that runs in L1."""

from dataclasses import dataclass, field

from qap.lab.channel import shut
from qap.lab.l1 import L1
from qap.lab.program import L1Program
from qap.machine.held import Held, described, resident
from qap.machine.machine import Machine


@dataclass
class L2(Machine):
    """A QEMU in L1, with the sessions that Machine has.

    Its RAM can't be mapped here: a driver uses GuestMemory.

    Args:
        l1: where it runs; `binary` and all paths in `spec` are as L1 sees them.
    """

    l1: L1 = field(kw_only=True)

    def _start(self) -> None:
        sessions = 3 if self.spec.qtest else 2
        channels = self._owned.enter_context(self.l1.channels.open(sessions))
        ours = [channel.sock for channel in channels]
        argv = self._argv(*[f"pipe,path={channel.device}" for channel in channels])
        name = self.l1.name("l2-")
        program = L1Program(self.l1, argv, name, self.log or self.l1.folder / f"{name}.log")
        self.process = self._owned.enter_context(program)
        # The ports stay when QEMU ends; its sessions are to see an end.
        program.ended = lambda: shut(ours)
        if not program.alive:
            shut(ours)
        self._connect(*[sock.dup() for sock in ours])

    def held(self) -> Held:
        """What L1's kernel holds for it.

        Raises:
            QapError: it has ended.
        """
        of = f"/proc/{self.process.pid}"
        fds, threads, status = self.l1.agent.ask(
            f"links {of}/fd", f"names {of}/task", f"read {of}/status"
        )
        return Held(described(fds.splitlines()), len(threads.splitlines()), resident(status))
