"""A simulated SEV-SNP guest that Python drives: its CPU, in long mode, and its calls."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.hw.ghcb import Ghcb
from qap.hw.snp_cpu import SnpCpu
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.scenario.confidential import ID
from qap.verify.kit.sev_guest import FREE, SevGuest, boot
from qap.verify.kit.simulated_guest import SimulatedGuest, simulated_machine

SIMULATION = f"x-confidential-sim,id={ID},mode=snp"
GHCB = 0x180_0000  # where `ghcb` is


@dataclass
class SnpGuest(SimulatedGuest):
    """With what it asks its host."""

    bare: SevGuest
    snp: SnpCpu

    def ghcb(self, address: int = GHCB) -> Ghcb:
        """A GHCB that is shared and registered."""
        page = Ghcb(self.snp, address)
        page.lend()
        return page

    def reset(self) -> "SnpGuest":
        """Reset the machine, and take up its CPU again."""
        self.reset_machine()
        return taken_up(self.machine)


def taken_up(machine: Machine, mode: Mode = Mode.LONG) -> SnpGuest:
    """Turn on paging in a machine with our firmware, after a start or a reset."""
    bare = boot(machine, mode)
    return SnpGuest(machine, bare, SnpCpu(bare.cpu, bare.tables, bare.home, FREE[mode]))


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
    with simulated_machine(folder, "q35", cpu, sim, devices, extra) as machine:
        yield taken_up(machine, mode)
