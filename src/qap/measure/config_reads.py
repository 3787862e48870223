"""What a read of device configuration costs: QEMU's instructions, and reads a second over QTest."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qap.fork.build import Build
from qap.host.cpu_time import others
from qap.host.errors import QapError
from qap.machine.machine import Machine
from qap.machine.mapped_memory import MappedMemory
from qap.measure.comparison import VARIANTS, Measure, Variant, WorkloadRow
from qap.measure.instructions import Case
from qap.vhost_user.programs import null_disk
from qap.virtio import ccw, mmio, pci_modern
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Driver
from qap.virtio.mmio import Mmio
from qap.virtio.pci_modern import PciModern
from qap.virtio.transport import Transport

READS = 64
# A command of a channel program varies by a few per cent: the CPU runs beside it.
COMMANDS = 256
# A disk's capacity, 5.2.4; its lower half is what fits a register.
WORD, CAPACITY = 4, 8
# The part of QEMU that carries out a read of a register, and the one that executes a command of
# a channel program. What QTest does, and what TCG translates, is not in them.
REGISTER = ("memory_region_dispatch_read",)
COMMAND = ("virtio_ccw_cb",)


@dataclass(frozen=True)
class ConfigReads:
    """Reads of a disk's capacity, one by one.

    Attributes:
        read: does it once; what it returns is compared with `expected`.
        requests: reads in a batch.
    """

    read: Callable[[], int]
    expected: int
    requests: int = READS

    def batch(self) -> None:
        """Read, and look at what was read.

        Raises:
            QapError: the device shows something else than before.
        """
        for _ in range(self.requests):
            capacity = self.read()
            if capacity != self.expected:
                raise QapError(f"a disk of {self.expected} sectors now shows {capacity}")


def config_reads(made: Driver) -> ConfigReads:
    """Reads by a driver that has negotiated."""
    read = _reader(made.transport)
    times = COMMANDS if isinstance(made.transport, VirtioCcw) else READS
    return ConfigReads(read, read(), times)


def _reader(transport: Transport) -> Callable[[], int]:
    """What reads the capacity with one access, or one command."""
    if isinstance(transport, PciModern):
        device = transport.registers(pci_modern.DEVICE_CFG)
        return lambda: device.read(0, WORD)
    if isinstance(transport, Mmio):
        registers = transport.registers
        return lambda: registers.read(mmio.CONFIG, WORD)
    assert isinstance(transport, VirtioCcw)
    return lambda: int.from_bytes(transport.execute(ccw.READ_CONF, bytes(CAPACITY)), "little")


def _case(transport: str, measure: Measure) -> Case:
    inside = COMMAND if transport.startswith("ccw") else REGISTER
    return Case(
        "virtio-blk",
        transport,
        config_reads,
        [{"drive": "disk"}],
        blockdevs=[null_disk("disk")],
        measure=measure,
        inside=inside,
    )


PLACES = ("pci modern", "mmio 2", "ccw 2")
COUNTED: tuple[Case, ...] = tuple(_case(place, "config instructions") for place in PLACES)
TIMED: tuple[Case, ...] = tuple(_case(place, "config rate") for place in PLACES)


def config_rates(
    case: Case,
    builds: Mapping[str, Build],
    rounds: int,
    done: Callable[[str], None],
    variants: tuple[Variant, ...] = VARIANTS,
) -> WorkloadRow:
    """Let the builds take turns at reading, each with iommu_platform off and on.

    Args:
        builds: by name, fork and base.
        done: is told of each turn.
        variants: what takes turns.
    Returns:
        The row, in reads a second.
    Raises:
        QapError: a QEMU ended, or a disk shows something else than before.
    """
    row = WorkloadRow(case.name, case.measure)
    with ExitStack() as owned:
        folder = Path(owned.enter_context(TemporaryDirectory(prefix="qap-")))
        work = {}
        for variant in variants:
            binary = builds[variant.build].path(case.reached.emulator)
            spec = case.spec(variant.iommu_platform)
            log = folder / f"{variant}.log"
            machine = owned.enter_context(Machine(binary, spec, log=log))
            memory = owned.enter_context(MappedMemory.of(machine))
            work[variant] = case.start(machine, memory, variant.iommu_platform)
        with others() as usage:
            for number in range(rounds):
                # The last variant of a round is the first of the next.
                for variant in variants if number % 2 else variants[::-1]:
                    start = time.perf_counter()
                    work[variant].batch()
                    row.add(variant, work[variant].requests / (time.perf_counter() - start))
                    done(f"{case.name}, {variant}")
        row.others = usage.share
    return row
