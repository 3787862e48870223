"""A simulated confidential x86 guest that Python drives: what SEV, SEV-SNP and TDX share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qap.fork.build import Build
from qap.hw.x86_cpu import firmware_option
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.scenario.confidential import ID, Shared

MEMORY = 128  # MiB


@dataclass
class SimulatedGuest:
    """A machine whose CPU waits for code, with paging."""

    machine: Machine

    def shared(self, address: int) -> bool:
        """Whether this page is shared, according to QEMU."""
        return Shared.of(self.machine).holds(address, 1)

    @property
    def protecting(self) -> bool:
        """Whether the guest has asked for protection."""
        return Shared.of(self.machine).protecting

    def reset_machine(self) -> None:
        """Reset the machine; its firmware waits for a mode again."""
        # It must not read the last one.
        self.machine.qtest.write(0x1000, bytes(64))
        self.machine.qmp.execute("system_reset")
        self.machine.qmp.wait_event("RESET", lambda data: True, 10)


@contextmanager
def simulated_machine(
    folder: Path,
    board: str,
    cpu: str,
    sim: str,
    devices: Sequence[Device],
    extra: Sequence[str],
    blockdevs: Sequence[str] = (),
) -> Iterator[Machine]:
    """A machine with our firmware and the simulation, or without it if `sim` is empty."""
    machine = f"{board},confidential-guest-support={ID}" if sim else board
    options = [*(["-object", sim] if sim else []), *firmware_option(folder), *extra]
    spec = Spec(
        machine,
        cpu=cpu,
        memory=MEMORY,
        devices=devices,
        blockdevs=blockdevs,
        extra=options,
        qtest=True,
    )
    with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as vm:
        yield vm
