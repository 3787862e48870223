"""A simulated TDX guest that Python drives: its CPU, in long mode, and its TDCALLs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.fork.build import Build
from qap.hw.trust_domain import TrustDomain
from qap.hw.x86_cpu import Mode, firmware_option
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.scenario.confidential import ID, Shared
from qap.verify.kit.sev_guest import MEMORY, SevGuest, boot

SIMULATION = f"x-confidential-sim,id={ID},mode=tdx"


@dataclass
class TdGuest:
    """A machine whose CPU waits for code, and what it asks the TDX module."""

    machine: Machine
    td: TrustDomain
    bare: SevGuest

    def shared(self, address: int) -> bool:
        """Whether this page is shared, according to QEMU."""
        return Shared.of(self.machine).holds(address, 1)

    @property
    def protecting(self) -> bool:
        """Whether the guest has asked for protection."""
        return Shared.of(self.machine).protecting

    def reset(self) -> "TdGuest":
        """Reset the machine, and take up its CPU again."""
        # The firmware waits for a mode again and must not read the last one.
        self.machine.qtest.write(0x1000, bytes(64))
        self.machine.qmp.execute("system_reset")
        self.machine.qmp.wait_event("RESET", lambda data: True, 10)
        return taken_up(self.machine)


def taken_up(machine: Machine, mode: Mode = Mode.LONG) -> TdGuest:
    """Turn on paging in a machine with our firmware, after a start or a reset."""
    bare = boot(machine, mode)
    return TdGuest(machine, TrustDomain(bare.cpu, bare.home), bare)


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
    machine = f"{board},confidential-guest-support={ID}" if sim else board
    options = [*(["-object", sim] if sim else []), *firmware_option(folder), *extra]
    spec = Spec(machine, cpu=cpu, memory=MEMORY, devices=devices, extra=options, qtest=True)
    with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as vm:
        yield taken_up(vm, mode)
