"""A QEMU in L1 with an assigned device, and what its guest sees of errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qap.hw.aer import AerFunction, AerPort
from qap.hw.ecam import Ecam
from qap.hw.pci import Bdf
from qap.hw.pci_bus import PciBus
from qap.lab.assigned import Assigned
from qap.lab.l2 import L2
from qap.machine.device import Device
from qap.machine.spec import Spec
from qap.verify.kit.slot import NATIVE, root_port

# An error is read twice, with a tenth of a second between, in a guest that is emulated.
TOLD_S = 20.0
EVENT = "VFIO_PCI_ERROR"
VIRTIO = 0x1AF4
PORT: Device = {"driver": "pcie-root-port", "id": "port0", "chassis": 1}


@dataclass
class AssignedMachine:
    """A running L2 whose device is behind a root port.

    Attributes:
        device, port: as the guest's driver sees them.
        told: data of all VFIO_PCI_ERROR events that were waited for or passed by.
    """

    machine: L2
    device: AerFunction
    port: AerPort
    told: list[dict[str, Any]] = field(default_factory=list)

    def listen(self) -> None:
        """Enable what a driver enables: messages on the whole way, and the port's interrupt."""
        self.device.report()
        self.port.listen()

    def wait(self, action: str) -> dict[str, Any]:
        """Wait until QEMU tells of an error with this action, and return what it tells.

        Raises:
            TimeoutError: it didn't.
        """
        return self.machine.qmp.wait_event(EVENT, lambda data: self._wanted(data, action), TOLD_S)

    def _wanted(self, data: dict[str, Any], action: str) -> bool:
        self.told.append(data)
        return bool(data["action"] == action)

    def wait_held(self) -> None:
        """Wait until QEMU holds an error back.

        Raises:
            GuestCommandError: it didn't.
        """
        held = f"grep -q vfio_pci_error_held {self.machine.log}"
        self.machine.l1.check(f'timeout {TOLD_S:g} await "{held}"')

    def wait_unplugged(self) -> None:
        """Wait until the device is gone and QEMU has closed its IOMMU group.

        The group is closed after DEVICE_DELETED, when nothing refers to the device any more.

        Raises:
            TimeoutError, GuestCommandError: it isn't.
        """
        self.machine.qmp.wait_event("DEVICE_DELETED", lambda data: "device" in data, TOLD_S)
        opened = f"ls -l /proc/{self.machine.process.pid}/fd | grep -q /dev/vfio/[0-9]"
        self.machine.l1.check(f'timeout {TOLD_S:g} await "! {opened}"')

    @property
    def status(self) -> str:
        """The VM's state, as query-status says it."""
        status: str = self.machine.qmp.execute("query-status")["status"]
        return status


def assigned_l2(
    assigned: Assigned,
    properties: Device | None = None,
    *,
    machine: str = "q35",
    bus: str = "port0",
    wrapper: Sequence[str] = (),
) -> L2:
    """A QEMU in L1, to be started, with a root port and the device.

    Args:
        properties: of the device.
        machine: its machine type.
        bus: where the device is; “port0” is behind the root port.
        wrapper: a command that runs QEMU.
    """
    devices = [PORT, assigned.device(bus, properties)]
    spec = Spec(
        machine=machine,
        accel="qtest",
        memory=64,
        devices=devices,
        extra=["-trace", "vfio_pci_error*", *NATIVE],
        qtest=True,
    )
    binary = assigned.l1.build.path("qemu-system-x86_64")
    log = assigned.l1.folder / f"{assigned.l1.name('assigned')}.log"
    return L2(binary, spec, log=log, wrapper=wrapper, l1=assigned.l1)


@contextmanager
def assigned_machine(
    assigned: Assigned, properties: Device | None = None, *, wrapper: Sequence[str] = ()
) -> Iterator[AssignedMachine]:
    """A q35 in L1 with the device behind a root port, found by its guest.

    Args:
        properties, wrapper: as for `assigned_l2`.
    """
    with assigned_l2(assigned, properties, wrapper=wrapper) as machine:
        bus = PciBus(machine.qtest)
        functions = {function.bdf: function for function in bus.scan()}
        ecam = Ecam.open(functions[Bdf(0, 0, 0)])
        device = AerFunction(ecam, bus.find(VIRTIO))
        yield AssignedMachine(machine, device, AerPort(ecam, root_port(bus)))
