"""A simulated SEV guest that Python drives: its CPU, under page tables from Python."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.hw.x86_cpu import Cpu, Mode
from qap.hw.x86_page_tables import PAGE, SIZES, Shape, X86PageTables
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.scenario.confidential import ID
from qap.verify.kit.simulated_guest import SimulatedGuest, simulated_machine

TABLES = 1 << 20
DATA = 1 << 24
# An address whose top-level table entry the firmware does not use.
FREE = {Mode.PAE: 1 << 30, Mode.LONG: 1 << 39, Mode.LA57: 1 << 48}


@dataclass
class SevGuest(SimulatedGuest):
    """With its CPU and page tables."""

    mode: Mode
    cpu: Cpu
    tables: X86PageTables
    home: int

    def protect(self) -> None:
        """Let the CPU access a first private page: all memory becomes private."""
        at = FREE[self.mode]
        self.cpu.load(at, self.tables.map(Shape(at, DATA, private=frozenset({1}))))

    def share(self, address: int, size: int = PAGE) -> None:
        """Let the CPU access these bytes by shared mappings, of 2 MiB where they fit."""
        self._touch(address, size, frozenset())

    def take_back(self, address: int, size: int = PAGE) -> None:
        """Let the CPU access these bytes by private mappings."""
        self._touch(address, size, frozenset({1, 2}))

    def _touch(self, address: int, size: int, private: frozenset[int]) -> None:
        at, end = FREE[self.mode], address + size
        while address < end:
            level = 2 if not address % SIZES[2] and end - address >= SIZES[2] else 1
            shape = Shape(at, address, level=level, private=private & {level})
            self.cpu.touch(at, SIZES[level] // PAGE, self.tables.map(shape))
            address += SIZES[level]


def sim_options() -> list[str]:
    """The command-line options that create the object."""
    return ["-object", f"x-confidential-sim,id={ID}"]


@contextmanager
def started(
    folder: Path,
    mode: Mode,
    cpu: str = "max",
    *,
    board: str = "q35",
    sim: bool = True,
    devices: Sequence[Device] = (),
    blockdevs: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[SevGuest]:
    """A machine with or without the simulation, with paging on; the first CPU runs."""
    with simulated_machine(
        folder, board, cpu, sim_options()[1] if sim else "", devices, options, blockdevs
    ) as vm:
        yield boot(vm, mode)


def boot(vm: Machine, mode: Mode) -> SevGuest:
    """Turn on paging in a machine with our firmware, after a start or a reset."""
    cpu, tables = Cpu(vm.qtest, mode), X86PageTables(vm.qtest, mode, TABLES)
    home = tables.home()
    cpu.start(home)
    return SevGuest(vm, mode, cpu, tables, home)
