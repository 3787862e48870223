"""A simulated TDX guest that Python drives: its CPU, in long mode, and its TDCALLs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.hw.trust_domain import TrustDomain
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.scenario.confidential import ID
from qap.verify.kit.sev_guest import SevGuest, boot
from qap.verify.kit.simulated_guest import SimulatedGuest, simulated_machine

SIMULATION = f"x-confidential-sim,id={ID},mode=tdx"


@dataclass
class TdGuest(SimulatedGuest):
    """With what it asks the TDX module."""

    bare: SevGuest
    td: TrustDomain

    def reset(self) -> "TdGuest":
        """Reset the machine, and take up its CPU again."""
        self.reset_machine()
        return taken_up(self.machine)


def taken_up(machine: Machine, mode: Mode = Mode.LONG) -> TdGuest:
    """Turn on paging in a machine with our firmware, after a start or a reset."""
    bare = boot(machine, mode)
    return TdGuest(machine, bare, TrustDomain(bare.cpu, bare.home))


@contextmanager
def td_started(
    folder: Path,
    *,
    mode: Mode = Mode.LONG,
    board: str = "q35",
    cpu: str = "max",
    sim: str = SIMULATION,
    devices: Sequence[Device] = (),
    extra: Sequence[str] = (),
) -> Iterator[TdGuest]:
    """A machine with the simulation, or without it if `sim` is empty."""
    with simulated_machine(folder, board, cpu, sim, devices, extra) as machine:
        yield taken_up(machine, mode)
