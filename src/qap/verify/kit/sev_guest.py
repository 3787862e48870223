"""A simulated SEV guest that Python drives: its CPU, under page tables from Python."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.fork.build import Build
from qap.hw.x86_cpu import Cpu, Mode, firmware_option
from qap.hw.x86_page_tables import PAGE, SIZES, Shape, X86PageTables
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.scenario.confidential import ID, Shared

TABLES = 1 << 20
DATA = 1 << 24
MEMORY = 128
# An address whose top-level table entry the firmware does not use.
FREE = {Mode.PAE: 1 << 30, Mode.LONG: 1 << 39, Mode.LA57: 1 << 48}


@dataclass
class SevGuest:
    """A machine whose CPU waits for code, with paging on."""

    machine: Machine
    mode: Mode
    cpu: Cpu
    tables: X86PageTables
    home: int

    def shared(self, address: int) -> bool:
        """Whether this page is shared, according to QEMU."""
        return Shared.of(self.machine).holds(address, 1)

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

    @property
    def protecting(self) -> bool:
        """Whether the guest has asked for protection."""
        return Shared.of(self.machine).protecting


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
    machine = f"{board},confidential-guest-support={ID}" if sim else board
    extra = [*(sim_options() if sim else []), *firmware_option(folder), *options]
    spec = Spec(
        machine,
        cpu=cpu,
        memory=MEMORY,
        devices=devices,
        blockdevs=blockdevs,
        extra=extra,
        qtest=True,
    )
    with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as vm:
        yield boot(vm, mode)


def boot(vm: Machine, mode: Mode) -> SevGuest:
    """Turn on paging in a machine with our firmware, after a start or a reset."""
    cpu, tables = Cpu(vm.qtest, mode), X86PageTables(vm.qtest, mode, TABLES)
    home = tables.home()
    cpu.start(home)
    return SevGuest(vm, mode, cpu, tables, home)
