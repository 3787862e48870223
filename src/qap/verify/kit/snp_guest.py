"""A simulated SEV-SNP guest that Python drives: its CPU, in long mode, and its calls."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.fork.build import Build
from qap.hw.ghcb import Ghcb
from qap.hw.snp_cpu import SnpCpu
from qap.hw.x86_cpu import Mode, firmware_option
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.scenario.confidential import ID, Shared
from qap.verify.kit.sev_guest import FREE, MEMORY, SevGuest, boot

SIMULATION = f"x-confidential-sim,id={ID},mode=snp"
GHCB = 0x180_0000  # where `ghcb` is


@dataclass
class SnpGuest:
    """A machine whose CPU waits for code, and what it asks its host."""

    machine: Machine
    snp: SnpCpu
    bare: SevGuest

    def shared(self, address: int) -> bool:
        """Whether this page is shared, according to QEMU."""
        return Shared.of(self.machine).holds(address, 1)

    @property
    def protecting(self) -> bool:
        """Whether the guest has asked for protection."""
        return Shared.of(self.machine).protecting

    def ghcb(self, address: int = GHCB) -> Ghcb:
        """A GHCB that is shared and registered."""
        page = Ghcb(self.snp, address)
        page.lend()
        return page

    def reset(self) -> "SnpGuest":
        """Reset the machine, and take up its CPU again."""
        # The firmware waits for a mode again and must not read the last one.
        self.machine.qtest.write(0x1000, bytes(64))
        self.machine.qmp.execute("system_reset")
        self.machine.qmp.wait_event("RESET", lambda data: True, 10)
        return taken_up(self.machine)


def taken_up(machine: Machine, mode: Mode = Mode.LONG) -> SnpGuest:
    """Turn on paging in a machine with our firmware, after a start or a reset."""
    bare = boot(machine, mode)
    return SnpGuest(machine, SnpCpu(bare.cpu, bare.tables, bare.home, FREE[mode]), bare)


@contextmanager
def snp_started(
    folder: Path,
    *,
    mode: Mode = Mode.LONG,
    cpu: str = "max",
    sim: str = SIMULATION,
    devices: Sequence[Device] = (),
    extra: Sequence[str] = (),
) -> Iterator[SnpGuest]:
    """A machine with the simulation, or without it if `sim` is empty."""
    board = f"q35,confidential-guest-support={ID}" if sim else "q35"
    options = [*(["-object", sim] if sim else []), *firmware_option(folder), *extra]
    spec = Spec(board, cpu=cpu, memory=MEMORY, devices=devices, extra=options, qtest=True)
    with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as vm:
        yield taken_up(vm, mode)
