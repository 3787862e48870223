"""A fixed workload for an x86 CPU, without timers: page walks under -icount, counted exactly."""

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.hw import x86_cpu
from qap.hw.x86_cpu import Mode
from qap.hw.x86_page_tables import PAGE, Shape, X86PageTables
from qap.machine import catalog
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.measure.callgrind import total, valgrind_argv

GUEST = "x86_64"
EXIT_PORT = 0xF4
# isa-debug-exit makes 2 * value + 1 of what is written to its port.
EXIT_VALUE = 0x10
EXIT_STATUS = 2 * EXIT_VALUE + 1
TABLES_AT = 0x10000
VIRTUAL = 1 << 39
PHYSICAL = 1 << 22
PAGES = 512
ROUNDS = 100
RUN_S = 300.0
# QEMU's function in which the guest's code and its faults run, and nothing else does.
EXECUTE_FUNCTION = "tcg_cpu_exec"


def _code(words: int) -> bytes:
    """Code of rounds in which each page's translation is flushed (INVLPG) and walked again.

    The code does not write CR3: after that, QEMU resizes its TLB depending on elapsed time.

    Args:
        words: of 8 bytes, how many are then read from the page.
    """
    return bytes.fromhex(
        "4889de"  # 1: mov %rbx, %rsi
        f"b9{_immediate(PAGES)}"  # mov $PAGES, %ecx
        "0f013e"  # 2: invlpg (%rsi)
        f"bf{_immediate(words)}"  # mov $words, %edi
        "480306"  # 3: add (%rsi), %rax
        f"4881c6{_immediate(PAGE // words)}"  # add $(PAGE / words), %rsi
        "ffcf"  # dec %edi
        "75f2"  # jnz 3b
        "e2e8"  # loop 2b
        "ffca"  # dec %edx
        "75dc"  # jnz 1b
        f"b0{EXIT_VALUE:02x}"  # mov $EXIT_VALUE, %al
        f"e6{EXIT_PORT:02x}"  # out %al, $EXIT_PORT
        # QEMU's main loop ends it some time later: until then, nothing may be counted.
        "f4"  # hlt
    )


def _immediate(value: int) -> str:
    return value.to_bytes(4, "little").hex()


@dataclass(frozen=True)
class Walks:
    """The workload on a build's qemu-system-x86_64.

    Args:
        words: how many are read from a page, from 1 to 512: how much work there is to a walk.
        rounds: how often 512 pages are walked to.
    """

    build: Build
    words: int
    rounds: int = ROUNDS

    def sample(self) -> float:
        """Host instructions that QEMU takes for a page.

        The same each time, but for a run that the host disturbs, which takes more.

        Raises:
            QapError: the code did not come to its end.
            TimeoutError: it does not end.
        """
        with tempfile.TemporaryDirectory(prefix="qap-") as scratch:
            folder = Path(scratch)
            profile = folder / "callgrind"
            machine = Machine(
                self.build.path("qemu-system-x86_64"),
                self._spec(folder),
                log=folder / "qemu.log",
                wrapper=valgrind_argv(profile, [EXECUTE_FUNCTION]),
            )
            with machine:
                self._load(machine)
                machine.qmp.execute("cont")
                status = machine.process.wait(RUN_S)
                if status != EXIT_STATUS:
                    raise QapError(
                        f"the page walks ended with status {status}: {machine.process.tail()}"
                    )
            return total(profile.read_text()) / (self.rounds * PAGES)

    def _spec(self, folder: Path) -> Spec:
        leave = f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1"
        return Spec(
            "q35",
            cpu=catalog.guest(GUEST).cpu,
            qtest=True,
            extra=["-S", "-icount", "shift=0", "-device", leave, *x86_cpu.firmware_option(folder)],
        )

    def _load(self, machine: Machine) -> None:
        """Write all that the firmware waits for before it starts."""
        tables = X86PageTables(machine.qtest, Mode.LONG, TABLES_AT)
        cpu = x86_cpu.Cpu(machine.qtest, Mode.LONG)
        cpu.start(tables.home())
        lowest = tables.at
        shapes = [Shape(VIRTUAL + at, PHYSICAL + at) for at in range(0, PAGES * PAGE, PAGE)]
        cr3 = tables.map(shapes[0])
        machine.qtest.write(lowest, b"".join(struct.pack("<Q", shape.entry) for shape in shapes))
        cpu.begin(_code(self.words), cr3, {"rbx": VIRTUAL, "rdx": self.rounds})
